"""Reciprocal rank fusion against its formula."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distill.retrieval.fusion import reciprocal_rank_fusion
from distill.retrieval.search import Hits


def hits(*runs: list[int]) -> Hits:
    """Hits of a retriever, a run for each query; a passage's score is 1,000 less for each rank."""
    found = Hits.empty(len(runs), max(map(len, runs)))
    for number, run in enumerate(runs):
        found.rows[number, : len(run)] = run
        found.scores[number, : len(run)] = [-1000 * rank for rank in range(len(run))]
    return found


def test_fusion_equals_the_formula_of_the_paper_by_hand():
    fused = reciprocal_rank_fusion([hits([7, 3, 9]), hits([3, 5])], k=60)
    assert fused.rows.tolist() == [3, 7, 5, 9]
    assert fused.queries.tolist() == [0] * 4
    np.testing.assert_allclose(fused.scores, [1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63], rtol=1e-6)
    np.testing.assert_array_equal(fused.own, [[-1000, 0, np.nan, -2000], [0, np.nan, -1000, np.nan]])


def test_padding_takes_no_rank_and_an_empty_run_adds_nothing():
    fused = reciprocal_rank_fusion([hits([4, -1, -1]), hits([-1, -1])], k=1)
    assert fused.rows.tolist() == [4]
    assert fused.scores.tolist() == [0.5]
    nothing = reciprocal_rank_fusion([hits([-1])], k=1)
    assert len(nothing.rows) == 0
    assert nothing.own.shape == (1, 0)
    assert nothing.counts(1).tolist() == [0]


run = st.lists(st.integers(0, 30), unique=True, max_size=12)
retrievers = st.integers(1, 3).flatmap(
    lambda queries: st.lists(st.lists(run, min_size=queries, max_size=queries), min_size=1, max_size=4)
)


@given(retrievers, st.integers(1, 100))
def test_fusion_equals_a_brute_force_and_is_sorted_with_ties_by_row(lists: list[list[list[int]]], k: int):
    fused = reciprocal_rank_fusion([hits(*runs) for runs in lists], k)
    for query in range(len(lists[0])):
        expected: dict[int, float] = {}
        for runs in lists:
            for position, row in enumerate(runs[query]):
                expected[row] = expected.get(row, 0.0) + 1 / (k + position + 1)
        of_query = fused.where(fused.queries == query)
        assert set(of_query.rows.tolist()) == set(expected)
        np.testing.assert_allclose(of_query.scores, [expected[row] for row in of_query.rows.tolist()], rtol=1e-6)
        keys = [(-expected[row], row) for row in of_query.rows.tolist()]
        assert keys == sorted(keys)
        assert fused.ranks[fused.queries == query].tolist() == list(range(len(expected)))
        for runs, own in zip(lists, of_query.own, strict=True):
            for row, score in zip(of_query.rows.tolist(), own.tolist(), strict=True):
                assert score == -1000 * runs[query].index(row) if row in runs[query] else np.isnan(score)


def test_the_order_of_retrievers_does_not_matter():
    first, second = hits([1, 2, 3]), hits([4, 3, 1])
    forward, backward = reciprocal_rank_fusion([first, second]), reciprocal_rank_fusion([second, first])
    assert forward.rows.tolist() == backward.rows.tolist()
