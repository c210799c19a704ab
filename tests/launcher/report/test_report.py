from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import InputError
from cluster.tables.storage import Storage
from distill.evaluation import metrics
from launcher.report.page import build_report
from launcher.report.queries import first_queries
from launcher.report.verdict import METRICS
from tests.launcher.workdir import NASTY, complete_workdir


class Page(HTMLParser):
    """The tags, attributes and text of a page, as a browser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, text: str) -> None:
        self.text += text


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return complete_workdir(tmp_path / "run")


def page(storage: Storage) -> Page:
    build_report(storage)
    return Page(storage.get("report.html").decode())


def test_report_json_holds_base_student_interval_and_throughput_of_every_stage(storage: Storage) -> None:
    build_report(storage)
    report = json.loads(storage.get("report.json"))
    for side in ("base", "student"):
        assert {"model", "ndcg@10", "recall@100", "mrr@10", "queries", "passages"} <= report[side].keys()
    assert report["difference"]["low"] == 0.02
    assert report["difference"]["high"] == 0.1
    assert [stage["table"] for stage in report["stages"]] == [
        "records", "passages", "queries", "candidates", "scores/bm25", "lists",
    ]  # fmt: skip
    assert all(stage["rows_per_s"] > 0 for stage in report["stages"])


def test_the_report_shows_every_metric_that_an_evaluation_measures() -> None:
    assert METRICS.keys() == metrics.METRICS.keys()


def test_every_text_of_a_run_is_shown_as_text(storage: Storage) -> None:
    html_page = page(storage)
    assert "script" not in html_page.tags
    assert html_page.text.count('alert("query")') >= 6, "run name, drop reason, query, passage ids and texts"
    assert html_page.text.count("{{ 7 * 7 }} {% if %}") >= 6
    assert NASTY in html_page.text


def test_the_page_needs_no_network(storage: Storage) -> None:
    build_report(storage)
    html = storage.get("report.html").decode()
    html_page = Page(html)
    assert not {"link", "script", "img", "iframe"} & set(html_page.tags)
    assert not [value for name, value in html_page.attributes if name in ("src", "href", "xlink:href")]
    assert not re.findall(r"https?://|@import|url\(", html)


def test_the_funnel_adds_up_and_names_each_reason(storage: Storage) -> None:
    text = " ".join(page(storage).text.split())
    assert "175 rows of 200 input records" in text
    assert "duplicate 20 (10 %)" in text
    assert "300 rows of 397 queries" in text
    assert "rejected 3" in text


def test_bars_of_a_finished_stage_fill_its_width(storage: Storage) -> None:
    build_report(storage)
    html = storage.get("report.html").decode()
    bars = re.findall(r'<div class="bar">(.*?)</div>', html, flags=re.S)
    assert len(bars) == 6
    for bar in bars:
        assert sum(map(float, re.findall(r"width:([\d.]+)%", bar))) == pytest.approx(100, abs=0.01)


def test_an_incomplete_last_line_does_not_spoil_the_curves(storage: Storage) -> None:
    html_page = page(storage)
    assert html_page.tags.count("polyline") == 6, "loss, KL, dev KL, dev nDCG, repeats, queries per second"
    assert "best 0.6100, step 10" in html_page.text


def test_an_unfinished_run_has_a_report_too(storage: Storage) -> None:
    storage.delete("evaluation")
    assert "trained, not judged" in page(storage).text
    for folder in ("training", "lists", "scores"):
        storage.delete(folder)
    storage.delete("candidates/commits")
    text = " ".join(page(storage).text.split())
    assert "This run is not finished" in text
    assert "0 rows of 460 queries" in text
    assert "0 of 1 shards" in text
    assert "base" not in json.loads(storage.get("report.json"))


def test_the_report_says_if_the_student_is_not_better(storage: Storage) -> None:
    record = json.loads(storage.get("evaluation/record.json"))
    record["difference"] |= {"mean": -0.01, "low": -0.03, "high": 0.01}
    record["verdict"] = "The student is no better than its base: -0.0100. Keep the base."
    storage.put("evaluation/record.json", json.dumps(record).encode())
    html_page = page(storage)
    assert "The student is no better than its base" in html_page.text
    assert ("class", "verdict same") in html_page.attributes


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        build_report(Storage(str(tmp_path)))


def test_where_no_step_was_better_the_report_says_first_that_the_base_stays(storage: Storage) -> None:
    record = json.loads(storage.get("training/record.json"))
    record |= {"best_step": 0, "steps": 10, "base_dev": {"dev_ndcg@10": 0.7125, "dev_loss": 1.0}}
    storage.put("training/record.json", json.dumps(record).encode())
    for judged in (True, False):
        if not judged:
            storage.delete("evaluation")
        text = " ".join(page(storage).text.split())
        assert text.index("Training did not help, the base stays") < text.index("From corpus to lists")
        assert "No evaluation in 10 steps was better than the base's nDCG@10 of 0.7125 on the dev lists" in text


def test_twenty_queries_come_from_all_types_in_turn() -> None:
    def passage(number: int, *types: str, dropped: str = "") -> dict[str, Any]:
        written = [{"type": one, "text": f"{one} {number}", "reason": dropped, "writer": None} for one in types]
        return {"passage_id": str(number), "title": "", "text": f"passage {number}", "written": written}

    samples = {"kept": [passage(n, "claim", "question") for n in range(30)] + [passage(30, "title")]}
    rows = first_queries(samples)
    assert len(rows) == 20
    counts = Counter(row["type"] for row in rows)
    assert counts["title"] == 1 and {counts["claim"], counts["question"]} <= {9, 10}
    assert len({row["source"] for row in rows}) == 20, "each of another passage"
    assert [row["type"] for row in rows] == sorted(row["type"] for row in rows)
    assert all(row["source"] == f"passage {row['text'].split()[1]}" for row in rows)
    assert first_queries({"kept": [passage(1, "claim", dropped="refusal")]}) == first_queries({}) == []
