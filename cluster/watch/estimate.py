"""How long a stage still takes, and which workers are slow: from how long its latest shards took, and nothing else."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Z = 1.2816  # of the normal distribution: four of five outcomes lie between -Z and Z
FEWEST = 3  # shards to judge by
SLOW = 1.5  # times what the others take


@dataclass(frozen=True)
class Left:
    """Seconds until a stage is done: probably, and the range in which four of five outcomes lie."""

    low: float
    middle: float
    high: float


def time_left(
    taken: Sequence[tuple[int, float]], units: int, shards: int, slots: int, running: Sequence[float]
) -> Left | None:
    """The time left of a stage, by its latest shards.

    Once every shard that is left is in work, the slowest of them decides. Before that, what is left is a sum of
    `shards` draws from what was seen: its spread is that of a sum, plus the uncertainty of a mean of only
    `len(taken)` values. Work of W seconds ends on m slots between W/m and W/m + (1 - 1/m) × the last shard (the
    bounds of list scheduling), which is the rest of the range.

    Args:
        taken: units and seconds of shards that are done.
        units: not yet done, in work or not.
        shards: that hold these units, at least 1.
        slots: shards that are done at a time.
        running: for each shard in work, the seconds it has been so.

    Returns:
        None: fewer than `FEWEST` shards to judge by, or nothing that works, or nothing left.
    """
    rates = [seconds / count for count, seconds in taken if count]
    if len(rates) < FEWEST or not slots or shards < 1:
        return None
    mean, seen = statistics.fmean(rates), len(rates)
    shard = mean * units / shards
    spread = statistics.stdev(rates) * units / shards
    if shards <= slots:
        return _last_wave(sorted(rates), units / shards, shards, running)
    work = max(mean * units - sum(min(seconds, shard) for seconds in running), 0.0) / slots
    tail = (1 - 1 / slots) * shard
    # Student's t with seen - 1 degrees of freedom, by its expansion around the normal distribution
    quantile = Z + (Z**3 + Z) / (4 * (seen - 1))
    deviation = quantile * spread * math.sqrt(shards + shards**2 / seen) / slots
    return Left(max(work - deviation, 0.0), work + tail / 2, work + tail + deviation)


def _last_wave(rates: list[float], units: float, shards: int, running: Sequence[float]) -> Left:
    """The largest of `shards` draws, less what the youngest has behind it."""
    behind = min(running) if len(running) >= shards else 0.0

    def quantile(share: float) -> float:
        rank = math.ceil(share ** (1 / shards) * len(rates)) - 1
        return max(rates[rank] * units - behind, 0.0)

    return Left(quantile(0.1), quantile(0.5), quantile(0.9))


def slowness(taken: dict[str, Sequence[tuple[int, float]]]) -> dict[str, float]:
    """How many times as long each worker takes for a unit as the others do, by medians.

    Args:
        taken: units and seconds of each worker's latest shards.

    Returns:
        Only workers with at least `FEWEST` shards, and only where there are others to compare with.
    """
    medians = {}
    for worker, shards in taken.items():
        rates = [seconds / count for count, seconds in shards if count]
        if len(rates) >= FEWEST:
            medians[worker] = statistics.median(rates)
    if len(medians) < 2:
        return {}
    ranked = sorted(medians.values())
    found = {}
    for worker, own in medians.items():
        others = ranked.copy()
        others.remove(own)
        found[worker] = own / max(statistics.median(others), 1e-9)
    return found
