"""Estimates of a stage's time left and of slow workers, from the durations of its latest shards alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Z = 1.2816  # of the normal distribution: four of five outcomes lie between -Z and Z
MIN_SHARDS = 3  # shards that an estimate needs
SLOW_FACTOR = 1.5  # a worker that takes so many times as long as the others is slow


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until a stage is done: `middle` is the estimate; four of five outcomes lie between `low` and `high`."""

    low: float
    middle: float
    high: float


def time_left(
    taken: Sequence[tuple[int, float]], units: int, shards: int, slots: int, running: Sequence[float]
) -> TimeLeft | None:
    """The time left of a stage, estimated from its latest shards.

    When all remaining shards are running, the slowest of them decides. Before that, the remaining work is modelled as
    a sum of `shards` draws from the durations seen. The range covers three things: the spread of that sum; the
    uncertainty of a mean of only `len(taken)` values; and the end of the work on several slots. Work of W seconds on m
    slots ends between W/m and W/m + (1 - 1/m) × the last shard (the bounds of list scheduling).

    Args:
        taken: (units, seconds) of shards that are done.
        units: units not yet done, including those of running shards.
        shards: number of shards that hold these units, at least 1.
        slots: number of shards that are processed at a time.
        running: for each running shard, its seconds so far.

    Returns:
        The estimate; None if fewer than `MIN_SHARDS` shards are done, no worker is ready, or no shard is left.
    """
    rates = [seconds / count for count, seconds in taken if count]
    if len(rates) < MIN_SHARDS or not slots or shards < 1:
        return None
    mean, seen = statistics.fmean(rates), len(rates)
    shard_s = mean * units / shards
    spread = statistics.stdev(rates) * units / shards
    if shards <= slots:
        return _last_wave(sorted(rates), units / shards, shards, running)
    work = max(mean * units - sum(min(seconds, shard_s) for seconds in running), 0.0) / slots
    tail = (1 - 1 / slots) * shard_s
    # quantile of Student's t with seen - 1 degrees of freedom, by its expansion around the normal distribution
    quantile = Z + (Z**3 + Z) / (4 * (seen - 1))
    deviation = quantile * spread * math.sqrt(shards + shards**2 / seen) / slots
    return TimeLeft(max(work - deviation, 0.0), work + tail / 2, work + tail + deviation)


def _last_wave(rates: list[float], units: float, shards: int, running: Sequence[float]) -> TimeLeft:
    """The time left when all shards are running: the largest of `shards` draws, less the time already spent.

    The time spent is that of the shard that was begun last.
    """
    spent = min(running) if len(running) >= shards else 0.0

    def quantile(share: float) -> float:
        rank = math.ceil(share ** (1 / shards) * len(rates)) - 1
        return max(rates[rank] * units - spent, 0.0)

    return TimeLeft(quantile(0.1), quantile(0.5), quantile(0.9))


def slowness(taken: dict[str, Sequence[tuple[int, float]]]) -> dict[str, float]:
    """The slowness of each worker: its median time for a unit, divided by the median of the other workers.

    Args:
        taken: (units, seconds) of each worker's latest shards.

    Returns:
        Slowness by worker, for workers with at least `MIN_SHARDS` shards; empty if fewer than two have so many.
    """
    medians = {}
    for worker, shards in taken.items():
        rates = [seconds / count for count, seconds in shards if count]
        if len(rates) >= MIN_SHARDS:
            medians[worker] = statistics.median(rates)
    if len(medians) < 2:
        return {}
    ranked = sorted(medians.values())
    slowness_of = {}
    for worker, own in medians.items():
        others = ranked.copy()
        others.remove(own)
        slowness_of[worker] = own / max(statistics.median(others), 1e-9)
    return slowness_of
