"""MaxScore against sums over whole columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.retrieval.bm25_build import Matrix
from distill.retrieval.max_score import ENOUGH, ScoreColumns


def columns_of(dense: np.ndarray) -> ScoreColumns:
    """The sparse form of a (rows, tokens) matrix."""
    by_token = [np.flatnonzero(column) for column in dense.T]
    starts = np.cumsum([0, *map(len, by_token)])
    owners = np.concatenate([*by_token, []]).astype(np.int32)
    values = np.concatenate([*(dense[rows, token] for token, rows in enumerate(by_token)), []]).astype(np.float32)
    return ScoreColumns(Matrix(values, owners, starts, len(dense)))


def whole_sums(dense: np.ndarray, tokens: list[int]) -> np.ndarray:
    """(rows,) float32 sums, added in the order of the tokens."""
    sums = np.zeros(len(dense), np.float32)
    for token in tokens:
        sums += dense[:, token]
    return sums


def wordy(generator: np.random.Generator, rows: int, tokens: int) -> np.ndarray:
    """(rows, tokens) values as BM25 gives them: the token t is in a share 1 / (t + 1) of the rows, worth ln(t + 2)."""
    ranks = np.arange(1, tokens + 1)
    present = generator.random((rows, tokens)) < 1 / ranks
    return (present * np.log(ranks + 1) * generator.uniform(0.3, 1.0, (rows, tokens))).astype(np.float32)


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 400),
    k=st.integers(1, 60),
    tokens=st.lists(st.integers(0, 29), min_size=1, max_size=12),
    digits=st.sampled_from([1, 7]),
)
def test_the_best_rows_and_all_that_tie_with_the_last_are_among_the_contenders(seed, rows, k, tokens, digits):
    """With one digit a value, many sums are equal, or differ by rounding alone."""
    dense = np.round(wordy(np.random.default_rng(seed), rows, 30), digits)
    columns = columns_of(dense)
    expected = whole_sums(dense, tokens)
    for _ in range(2):  # nothing of the first search is left
        found = columns.contenders(tokens, k)
        assert len(set(found.tolist())) == len(found)
        matches = np.flatnonzero(expected > 0)
        kth = np.sort(expected[matches])[-k] if len(matches) > k else 0
        assert set(matches[expected[matches] >= kth].tolist()) <= set(found.tolist()) <= set(matches.tolist())
        np.testing.assert_array_equal(columns.scores(tokens, found), expected[found])


def test_few_rows_of_a_common_word_are_looked_at():
    dense = wordy(np.random.default_rng(0), 20_000, 200)
    columns = columns_of(dense)
    for tokens in ([0, 1, 150, 199], [3, 90, 120], [0, 0, 2, 60]):
        assert (whole_sums(dense, tokens) > 0).sum() > 4_000
        assert len(columns.contenders(tokens, 10)) <= ENOUGH * 10


@pytest.mark.parametrize("tokens", [[], [0], [0, 0], [1], [0, 1]])
def test_tokens_that_no_row_has(tokens: list[int]):
    dense = np.zeros((3, 2), np.float32)
    dense[1, 1] = 0.5
    assert columns_of(dense).contenders(tokens, 2).tolist() == ([1] if 1 in tokens else [])


def test_rows_are_scored_in_any_order_and_more_than_once():
    dense = wordy(np.random.default_rng(1), 50, 10)
    rows = np.array([7, 3, 3, 49, 0])
    np.testing.assert_array_equal(columns_of(dense).scores([4, 2, 4], rows), whole_sums(dense, [4, 2, 4])[rows])
