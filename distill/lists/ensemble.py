"""How the scores of several teachers become one score for each candidate. Pure functions, no files.

Each teacher's scores are first brought into a form that can be added: raw, scaled over the whole run, or reciprocal
ranks. Then they are multiplied by the teachers' weights and added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from distill.settings.ensemble import EnsembleSettings

RRF_K = 60  # Cormack, Clarke and Büttcher, SIGIR 2009


@dataclass(frozen=True)
class Ensemble:
    """All that turns the raw scores of T teachers into one score; equal for every worker of a run.

    Attributes:
        weights: weight of each teacher.
        combine: "sum" adds scores, "rrf" adds reciprocal ranks.
        ranges: for each teacher the score that becomes 0, and the difference that becomes 1. None: raw scores.
    """

    weights: tuple[float, ...]
    combine: Literal["sum", "rrf"] = "sum"
    ranges: tuple[tuple[float, float], ...] | None = field(default=None)

    @property
    def is_plain(self) -> bool:
        """Whether it is a weighted sum of raw scores."""
        return self.combine == "sum" and self.ranges is None

    def parts(self, teacher_scores: Sequence[np.ndarray]) -> np.ndarray:
        """What each teacher adds before its weight, `(T, C) float64`.

        Args:
            teacher_scores: `(C,)` raw scores of each teacher for the C candidates of one query.
        """
        rows = [np.asarray(scores, dtype=np.float64) for scores in teacher_scores]
        if self.combine == "rrf":
            return np.stack([1.0 / (RRF_K + ranks(row)) for row in rows])
        if self.ranges is not None:
            rows = [(row - low) / width for row, (low, width) in zip(rows, self.ranges, strict=True)]
        return np.stack(rows)

    def scores(self, teacher_scores: Sequence[np.ndarray]) -> np.ndarray:
        """`(C,) float64` scores of the ensemble; arguments as in `parts`."""
        return ensemble_scores(list(self.parts(teacher_scores)), self.weights)

    def record(self) -> dict[str, Any]:
        """The same as JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Ensemble:
        """The ensemble of a record."""
        ranges = record["ranges"]
        return cls(
            tuple(record["weights"]), record["combine"], None if ranges is None else tuple((a, b) for a, b in ranges)
        )


def ensemble_scores(teacher_scores: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Weighted sum of the teachers' scores for one query's `(C,)` candidates, as `(C,) float64`."""
    total = np.zeros(len(teacher_scores[0]), dtype=np.float64)
    for scores, weight in zip(teacher_scores, weights, strict=True):
        total += weight * np.asarray(scores, dtype=np.float64)
    return total


def ranks(scores: np.ndarray) -> np.ndarray:
    """`(C,) int64` ranks by descending score, from 1; of equal scores the earlier position has the better rank."""
    result = np.empty(len(scores), dtype=np.int64)
    result[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return result


def ranges_of(
    settings: EnsembleSettings, names: Sequence[str], sample: Sequence[Sequence[np.ndarray]]
) -> tuple[tuple[float, float], ...] | None:
    """For each teacher the score that becomes 0, and the difference that becomes 1; None if scores stay as they are.

    For zscore these are mean and standard deviation over all scores of the sample, for minmax the least score, and the
    greatest minus the least.

    Args:
        settings: the scale.
        names: names of the T teachers, for messages.
        sample: for each query the `(C,)` raw scores of each teacher; at least one query.

    Raises:
        ValueError: a teacher gives every passage the same score; names it.
    """
    if settings.scale == "none":
        return None
    ranges = []
    for number, name in enumerate(names):
        scores = np.concatenate([np.asarray(query[number], dtype=np.float64) for query in sample])
        low, width = float(scores.min()), float(np.ptp(scores))
        if not width > 0:
            raise ValueError(f"teacher '{name}' gives every passage the score {low:g}")
        ranges.append((float(scores.mean()), float(scores.std())) if settings.scale == "zscore" else (low, width))
    return tuple(ranges)
