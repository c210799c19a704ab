"""The estimated time left agrees with simulated stages, and slow workers are found among equal ones."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from cluster.watch.estimate import slowness, time_left

UNITS = 10


def finish(durations: np.ndarray, slots: int) -> float:
    """The time when the last of these shards ends, if each is begun by the slot that is free first."""
    free = [0.0] * slots
    for seconds in durations:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


@pytest.mark.parametrize(("seen", "shards", "slots"), [(5, 40, 4), (30, 200, 8), (100, 12, 16), (200, 2000, 16)])
def test_four_of_five_stages_end_within_the_range(seen: int, shards: int, slots: int) -> None:
    dice = np.random.default_rng(0)
    inside = []
    for _ in range(400):
        taken = [(UNITS, float(seconds)) for seconds in dice.lognormal(0.0, 0.5, seen)]
        left = time_left(taken, shards * UNITS, shards, slots, [])
        assert left.low <= left.middle <= left.high
        inside.append(left.low <= finish(dice.lognormal(0.0, 0.5, shards), slots) <= left.high)
    assert 0.7 <= np.mean(inside) <= 0.99


def test_work_that_is_half_done_takes_half_as_long() -> None:
    taken = [(UNITS, 60.0)] * 20
    assert time_left(taken, 4 * UNITS, 4, 4, [30.0] * 4).low == pytest.approx(30.0)
    assert time_left(taken, 4 * UNITS, 4, 4, []).low == pytest.approx(60.0)
    assert time_left(taken, 4 * UNITS, 4, 4, [90.0] * 4).low == 0.0


def test_there_is_no_estimate_before_three_shards_or_without_workers() -> None:
    for taken, slots in (([(UNITS, 1.0)] * 2, 4), ([(UNITS, 1.0)] * 9, 0)):
        assert time_left(taken, 100, 10, slots, []) is None


def test_a_worker_is_compared_with_the_others_per_unit_of_work() -> None:
    even = {f"w{n}": [(UNITS, 1.0 + n / 100)] * 5 for n in range(4)}
    times = slowness({**even, "slow": [(2 * UNITS, 6.0)] * 5, "new": [(UNITS, 99.0)] * 2})
    assert times.keys() == {*even, "slow"}
    assert times["slow"] == pytest.approx(3.0, rel=0.05)
    assert all(0.9 < times[name] < 1.1 for name in even)
    assert slowness({"only": [(UNITS, 1.0)] * 5}) == {}
