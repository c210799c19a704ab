"""The report's curves of the training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from cluster.tables.storage import Storage
from distill.training.chosen import chosen_in_words
from launcher.report import charts


def training_view(storage: Storage, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The curves of training/metrics.jsonl; None if there are none yet."""
    lines = read_metrics(storage)
    if not lines:
        return None

    def points(key: str) -> list[charts.Point]:
        # A resumed run writes the steps after its checkpoint again; the later line counts.
        return sorted({line["step"]: float(line[key]) for line in lines if line.get(key) is not None}.items())

    loss, divergence = points("loss"), points("kl")
    if divergence and divergence != loss:  # the loss contains InfoNCE; the dev loss is only the KL
        curves = [("Loss", {"loss": loss}), ("KL over a list", {"KL": divergence, "dev KL": points("dev_loss")})]
    else:
        curves = [("Loss", {"loss": loss, "dev loss": points("dev_loss")})]
    titled_charts = [
        *((title, charts.line_chart(series, "step")) for title, series in curves),
        ("dev nDCG@10", charts.line_chart({"dev nDCG@10": points("dev_ndcg@10")}, "step", best="dev nDCG@10")),
        (
            "Times a passage is listed in one global batch",
            charts.line_chart({"repeats": points("repeats")}, "step", from_zero=True),
        ),
        (
            "Training queries per second",
            charts.line_chart({"queries per second": points("queries_per_s")}, "step", from_zero=True),
        ),
    ]
    return {
        "summary": _training_summary(record, points("queries_per_s")),
        "charts": [{"title": title, "chart": chart} for title, chart in titled_charts if chart],
    }


def read_metrics(storage: Storage) -> list[dict[str, Any]]:
    """The records of training/metrics.jsonl; a last line that is still being written is left out."""
    try:
        text = storage.get("training/metrics.jsonl").decode()
    except KeyError:
        return []
    lines = []
    for line in text.splitlines():
        with suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def _training_summary(record: Mapping[str, Any], speed: list[charts.Point]) -> str:
    sentences = []
    if "steps" in record:
        sentences.append(f"{record['steps']:,} steps in {record.get('seconds', 0):,.0f} s")
    if speed:
        sentences.append(f"{sum(y for _, y in speed) / len(speed):,.1f} queries/s")
    chosen = f" {chosen_in_words(record)}" if record.get("best_step") is not None else ""
    return f"{', '.join(sentences)}.{chosen}" if sentences else "Still running."
