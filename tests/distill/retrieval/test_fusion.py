"""Reciprocal rank fusion against its formula."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distill.retrieval.fusion import reciprocal_rank_fusion


def test_fusion_equals_the_formula_of_the_paper_by_hand():
    rows, scores = reciprocal_rank_fusion([np.array([7, 3, 9]), np.array([3, 5])], k=60)
    assert rows.tolist() == [3, 7, 5, 9]
    np.testing.assert_allclose(scores, [1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63], rtol=1e-6)


def test_padding_takes_no_rank_and_an_empty_run_adds_nothing():
    rows, scores = reciprocal_rank_fusion([np.array([4, -1, -1]), np.array([-1, -1])], k=1)
    assert rows.tolist() == [4]
    assert scores.tolist() == [0.5]
    assert len(reciprocal_rank_fusion([], k=1)[0]) == 0


runs = st.lists(st.lists(st.integers(0, 30), unique=True, max_size=12), min_size=1, max_size=4)


@given(runs, st.integers(1, 100))
def test_fusion_equals_a_brute_force_and_is_sorted_with_ties_by_row(lists: list[list[int]], k: int):
    expected: dict[int, float] = {}
    for run in lists:
        for position, row in enumerate(run):
            expected[row] = expected.get(row, 0.0) + 1 / (k + position + 1)
    rows, scores = reciprocal_rank_fusion([np.array(run, dtype=np.int64) for run in lists], k)
    assert set(rows.tolist()) == set(expected)
    np.testing.assert_allclose(scores, [expected[row] for row in rows.tolist()], rtol=1e-6)
    keys = [(-float(score), row) for row, score in zip(rows.tolist(), scores, strict=True)]
    assert [key[0] for key in keys] == sorted(key[0] for key in keys)


def test_the_order_of_retrievers_does_not_matter():
    first, second = np.array([1, 2, 3]), np.array([4, 3, 1])
    forward, backward = reciprocal_rank_fusion([first, second]), reciprocal_rank_fusion([second, first])
    assert forward[0].tolist() == backward[0].tolist()
