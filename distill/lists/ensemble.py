"""How the scores of several teachers become one score for each candidate. Pure functions, no files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ensemble_scores(teacher_scores: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Weighted sum of the teachers' raw scores for one query's `(C,)` candidates, as `(C,) float64`."""
    total = np.zeros(len(teacher_scores[0]), dtype=np.float64)
    for scores, weight in zip(teacher_scores, weights, strict=True):
        total += weight * np.asarray(scores, dtype=np.float64)
    return total
