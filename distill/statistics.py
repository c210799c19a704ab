"""Paired comparison of two models on the same queries: t-test, bootstrap interval, and a verdict in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """Student minus base over the same queries, with its 95 % interval.

    Attributes:
        mean: mean difference of the metric.
        low, high: 95 % interval of the mean, from a percentile bootstrap over queries.
        p: two-sided p of the paired t-test.
        wins, losses, ties: queries where the student is better, worse, equal.
    """

    mean: float
    low: float
    high: float
    p: float
    wins: int
    losses: int
    ties: int


def paired_difference(base: np.ndarray, student: np.ndarray, seed: int = 0) -> Difference:
    """Mean difference of two models over the same queries, with its interval and p.

    Args:
        base: `(Q,)` metric of the base for each query.
        student: `(Q,)` metric of the student for the same queries in the same order.
        seed: seed of the bootstrap.

    Raises:
        ValueError: the arrays have different shapes or are empty.
    """
    from scipy import stats

    if base.shape != student.shape or not len(base):
        raise ValueError(f"{base.shape} and {student.shape} values cannot be paired")
    differences = student.astype(np.float64) - base.astype(np.float64)
    mean = float(differences.mean())
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    ties = len(differences) - wins - losses
    if len(differences) < 2:
        return Difference(mean, -1.0, 1.0, 1.0, wins, losses, ties)
    if np.ptp(differences) == 0:
        # All differences are equal, and the t-test would divide by a standard deviation of zero.
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0, wins, losses, ties)
    interval = stats.bootstrap(
        (differences,), np.mean, n_resamples=RESAMPLES, batch=500, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return Difference(mean, float(interval.low), float(interval.high), 1.0 if math.isnan(p) else p, wins, losses, ties)


def verdict(difference: Difference, queries: int) -> tuple[str, str]:
    """The model to recommend ("student" or "base"), and one sentence that says why.

    The student is recommended only if the whole interval lies above zero.
    """
    interval = f"95 % interval {difference.low:+.4f} to {difference.high:+.4f}"
    span = f"{difference.mean:+.4f} nDCG@10 on {queries} queries, {interval}"
    if difference.low > 0:
        return "student", f"The student is better than its base: {span}. Use the student."
    if difference.high < 0:
        return "base", f"The student is worse than its base: {span}. Keep the base."
    return "base", f"The student is no better than its base: {span}, which includes zero. Keep the base."
