"""Whether a teacher that was fine-tuned in the run is kept: it must rank held-out sources better than the others do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from distill.statistics import paired_difference

LEAST_QUERIES = 20  # fewer decide nothing


def judge(others: Sequence[int], adapted: Sequence[int], untrained: Sequence[int] | None = None) -> dict[str, Any]:
    """Compares two rankers by the ranks that they give to the sources of the same queries; a record as JSON.

    Args:
        others: by the ensemble of the other teachers.
        adapted: by the fine-tuned teacher.
        untrained: by the model that it was made from, if that was a reranker.

    Returns:
        `held_out` (number of queries), `others`, `adapted`, `untrained` (each with `mrr`, the mean reciprocal rank, and
        `first`, the share of sources that rank first; or None), `difference` (of the reciprocal ranks, see
        `distill.statistics.Difference`; None for no queries), `kept`: the mean difference is positive, and there are at
        least `LEAST_QUERIES`.
    """
    record: dict[str, Any] = {"held_out": len(others), "others": None, "adapted": None, "untrained": None}
    if not others:
        return {**record, "difference": None, "kept": False}
    for name, found in (("others", others), ("adapted", adapted), ("untrained", untrained)):
        if found is not None:
            record[name] = {"mrr": float(_reciprocal(found).mean()), "first": float((np.array(found) == 1).mean())}
    difference = paired_difference(_reciprocal(others), _reciprocal(adapted))
    kept = difference.mean > 0 and len(others) >= LEAST_QUERIES
    return {**record, "difference": asdict(difference), "kept": bool(kept)}


def in_words(record: Mapping[str, Any]) -> str:
    """The judgement as a sentence; the argument is the record of the stage."""
    if not record["steps"]:
        return f"left out, since there are only {record['lists']} lists to learn from; generate more queries."
    if record["held_out"] < LEAST_QUERIES:
        return (
            f"left out, since only {record['held_out']} queries of held-out sources are quoted by no candidate; "
            f"{LEAST_QUERIES} or more are needed. Raise adapt.held_out_fraction, or generate more queries."
        )
    others, adapted, difference = record["others"], record["adapted"], record["difference"]
    decision = "it is kept" if record["kept"] else "it is left out"
    return (
        f"on {record['held_out']:,} queries of held-out sources, the mean reciprocal rank of the source is "
        f"{adapted['mrr']:.4f} with it and {others['mrr']:.4f} with the other teachers ({difference['mean']:+.4f}, "
        f"95 % interval {difference['low']:+.4f} to {difference['high']:+.4f}), and {adapted['first']:.1%} and "
        f"{others['first']:.1%} of the sources rank first; {decision}."
    )


def _reciprocal(found: Sequence[int]) -> np.ndarray:
    return 1.0 / np.asarray(found, dtype=np.float64)
