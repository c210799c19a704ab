"""Whether a teacher that was fine-tuned in the run is kept: with it, the teachers must rank held-out sources better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from distill.lists.ensemble import Ensemble, ranges_of, ranks
from distill.settings.ensemble import EnsembleSettings
from distill.statistics import paired_difference

LEAST_QUERIES = 20  # fewer decide nothing


def judge(
    others: Sequence[int], adapted: Sequence[int], together: Sequence[int], untrained: Sequence[int] | None = None
) -> dict[str, Any]:
    """Compares rankers by the ranks that they give to the sources of the same queries; a record as JSON.

    Args:
        others: by the ensemble of the other teachers.
        adapted: by the fine-tuned teacher alone.
        together: by the ensemble of all.
        untrained: by the model that it was made from, if that was a reranker.

    Returns:
        `held_out` (number of queries), `others`, `adapted`, `together`, `untrained` (each with `mrr`, the mean
        reciprocal rank, and `first`, the share of sources that rank first; or None), `difference` (of the reciprocal
        ranks of `together` and `others`, see `distill.statistics.Difference`; None for no queries), `kept`: the
        interval of the difference lies above zero, and there are at least `LEAST_QUERIES`.
    """
    found = {"others": others, "adapted": adapted, "together": together, "untrained": untrained}
    record: dict[str, Any] = {"held_out": len(others), **dict.fromkeys(found)}
    if not others:
        return {**record, "difference": None, "kept": False}
    for name, places in found.items():
        if places is not None:
            record[name] = {"mrr": float(_reciprocal(places).mean()), "first": float((np.array(places) == 1).mean())}
    difference = paired_difference(_reciprocal(others), _reciprocal(together))
    kept = difference.low > 0 and len(others) >= LEAST_QUERIES
    return {**record, "difference": asdict(difference), "kept": bool(kept)}


def with_others(
    others: Sequence[np.ndarray], own: Sequence[np.ndarray], weight: float, settings: EnsembleSettings
) -> list[np.ndarray]:
    """The scores of an ensemble and of one more teacher as one: for each query `(C,)` scores.

    A scale is that of these queries. A teacher that scores every passage alike adds nothing.

    Args:
        others: for each query the `(C,)` scores of the ensemble of the others.
        own: for each query the teacher's raw scores.
        weight: of the teacher.
        settings: how the ensemble scales and combines.
    """
    try:
        ranges = ranges_of(settings, ["adapted"], [[scores] for scores in own])
    except ValueError:
        return list(others)
    alone = Ensemble((weight,), settings.combine, ranges)
    return [scores + alone.scores([one]) for scores, one in zip(others, own, strict=True)]


def source_ranks(scores: Sequence[np.ndarray], sources: Sequence[int]) -> list[int]:
    """Rank of the source of every query, from 1; of equal scores the earlier candidate has the better rank."""
    return [int(ranks(one)[source]) for one, source in zip(scores, sources, strict=True)]


def in_words(record: Mapping[str, Any]) -> str:
    """The judgement as a sentence; the argument is the record of the stage with the judgement."""
    if not record["steps"]:
        return f"left out, since there are only {record['lists']} lists to learn from; generate more queries."
    if record["held_out"] < LEAST_QUERIES:
        return (
            f"left out, since only {record['held_out']} queries of held-out sources are quoted by no candidate; "
            f"{LEAST_QUERIES} or more are needed. Raise adapt.held_out_fraction, or generate more queries."
        )
    others, adapted, difference = record["others"], record["adapted"], record["difference"]
    together = record.get("together") or adapted  # earlier versions judged it alone
    decision = "it is kept" if record["kept"] else "it is left out"
    if difference["mean"] > 0 and not record["kept"]:
        decision += ", since these queries do not show that it helps"
    alone = f"; alone it has {adapted['mrr']:.4f} and {adapted['first']:.1%}" if record.get("together") else ""
    return (
        f"on {record['held_out']:,} queries of held-out sources, the mean reciprocal rank of the source is "
        f"{together['mrr']:.4f} with it and {others['mrr']:.4f} with the other teachers ({difference['mean']:+.4f}, "
        f"95 % interval {difference['low']:+.4f} to {difference['high']:+.4f}), and {together['first']:.1%} and "
        f"{others['first']:.1%} of the sources rank first{alone}; {decision}."
    )


def _reciprocal(found: Sequence[int]) -> np.ndarray:
    return 1.0 / np.asarray(found, dtype=np.float64)
