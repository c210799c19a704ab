"""Water filling against dealing out one by one, which is slow and plain."""

from __future__ import annotations

import numpy as np
import pytest

from generation.sources.spread import log_weights, spread_order


def dealt(sizes: list[int], count: int) -> list[int]:
    """How many each cluster gives, if one after the other gives one as long as it has some."""
    given = [0] * len(sizes)
    while sum(given) < count:
        for cluster, size in enumerate(sizes):
            if given[cluster] < size and sum(given) < count:
                given[cluster] += 1
    return given


def labels_of(sizes: list[int]) -> np.ndarray:
    return np.random.default_rng(7).permutation(np.repeat(np.arange(len(sizes)), sizes))


@pytest.mark.parametrize("sizes", [[5], [1, 1, 1], [100, 3, 40, 1, 0, 17], [2, 900, 2, 2], [10] * 13])
def test_every_beginning_takes_as_many_of_each_cluster_as_dealing_them_out_would(sizes: list[int]) -> None:
    labels = labels_of(sizes)
    order = spread_order(labels, np.ones(len(sizes)), seed=3)
    assert sorted(order.tolist()) == list(range(len(labels))), "everybody once"
    for count in {*range(0, len(labels), max(1, len(labels) // 40)), len(labels)}:
        taken = np.bincount(labels[order[:count]], minlength=len(sizes))
        # which of the clusters that are level comes first is drawn by lot, so only the amounts are the same
        assert sorted(taken.tolist()) == sorted(dealt(sizes, count))
        assert all(taken <= sizes)


def test_weights_are_kept_to_within_one_member_until_a_cluster_is_full() -> None:
    sizes, weights = [400, 30, 200, 5], np.array([0.5, 0.3, 0.15, 0.05])
    labels = labels_of(sizes)
    order = spread_order(labels, weights, seed=0)
    for count in range(1, sum(sizes) + 1):
        taken = np.bincount(labels[order[:count]], minlength=4)
        open_ones = taken < sizes
        if not open_ones.any():
            continue
        # one level of water: what an open cluster has is its weight times the level, give or take a member
        high = ((taken - 0.5) / weights)[taken > 0].max()
        low = ((taken + 0.5) / weights)[open_ones].min()
        assert high <= low + 1e-9


def test_a_cluster_of_weight_zero_comes_after_all_others() -> None:
    labels = labels_of([20, 20, 20])
    order = spread_order(labels, np.array([1.0, 0.0, 1.0]), seed=1)
    assert set(labels[order[:40]]) == {0, 2}
    assert set(labels[order[40:]]) == {1}


def test_the_seed_decides_who_is_taken_and_nothing_else_does() -> None:
    labels = labels_of([50, 50, 4])
    orders = [spread_order(labels, np.ones(3), seed)[:20].tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_what_users_ask_decides_beside_the_floor() -> None:
    counts, sizes = np.array([90, 10, 0, 50]), np.array([10, 10, 10, 0])
    np.testing.assert_allclose(log_weights(counts, sizes, 0.0), [0.9, 0.1, 0, 0])
    np.testing.assert_allclose(log_weights(counts, sizes, 1.0), [1 / 3, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(log_weights(counts, sizes, 0.3), [0.1 + 0.63, 0.1 + 0.07, 0.1, 0])
    np.testing.assert_allclose(log_weights(np.zeros(4, int), sizes, 0.3), [1 / 3, 1 / 3, 1 / 3, 0])
