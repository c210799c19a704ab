"""MaxScore against sums over whole columns."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import caching

from distill.retrieval import max_score
from distill.retrieval.bm25_build import Matrix, load_matrix
from distill.retrieval.max_score import WINDOW, ScoreColumns


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
def test_the_best_rows_are_those_of_sums_over_whole_columns_to_the_bit(seed, rows, k, tokens, digits):
    """With one digit a value, many sums are equal, or differ by rounding alone."""
    dense = np.round(wordy(np.random.default_rng(seed), rows, 30), digits)
    columns = columns_of(dense)
    queries = [tokens, tokens[::-1], tokens[:1]]
    found = columns.search(queries, k)
    for query, best, scores in zip(queries, found.rows, found.scores, strict=True):
        sums = whole_sums(dense, query)
        expected = [row for row in np.lexsort((np.arange(rows), -sums)) if sums[row] > 0][:k]
        assert best.tolist() == expected + [-1] * (k - len(expected))
        np.testing.assert_array_equal(scores, [*sums[expected], *[-np.inf] * (k - len(expected))])
        np.testing.assert_array_equal(columns.scores(query, np.arange(rows)), sums)


@pytest.mark.parametrize("k", [1, 10, 300])
def test_rows_of_many_windows_are_found_in_their_order(k: int):
    generator = np.random.default_rng(3)
    dense = np.round(wordy(generator, 5 * WINDOW + 7, 60), 2)  # rounded, so that rows tie across windows
    queries = [generator.integers(0, 60, size=generator.integers(1, 6)).tolist() for _ in range(40)]
    found = columns_of(dense).search(queries, k)
    for tokens, rows, scores in zip(queries, found.rows, found.scores, strict=True):
        sums = whole_sums(dense, tokens)
        expected = np.lexsort((np.arange(len(sums)), -sums))[:k]
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(scores, sums[expected])


def test_few_rows_of_a_common_word_are_looked_at():
    dense = wordy(np.random.default_rng(0), 20_000, 200)
    for tokens in ([0, 1, 150, 199], [3, 90, 120], [0, 0, 2, 60]):
        columns = columns_of(dense)
        assert (matches := (whole_sums(dense, tokens) > 0).sum()) > 4_000
        columns.search([tokens], 10)
        assert columns.scored < matches / 10


@pytest.mark.parametrize("tokens", [[], [0], [0, 0], [1], [0, 1]])
def test_tokens_that_no_row_has(tokens: list[int]):
    dense = np.zeros((3, 2), np.float32)
    dense[1, 1] = 0.5
    assert columns_of(dense).search([tokens], 2).rows.tolist() == [[1, -1] if 1 in tokens else [-1, -1]]


def test_no_queries_and_no_rows():
    empty = columns_of(np.zeros((0, 2), np.float32))
    assert empty.search([], 3).rows.shape == (0, 3)
    assert empty.search([[0, 1]], 3).rows.tolist() == [[-1] * 3]


def test_an_index_in_memory_and_a_mapped_one_share_the_compiled_code(tmp_path):
    columns = columns_of(wordy(np.random.default_rng(2), 50, 10))
    columns.search([[1, 2]], 3)
    for name in ("values", "owners", "starts"):
        np.save(tmp_path / f"{name}.npy", getattr(columns.matrix, name))
    before = len(max_score._search.signatures)
    mapped = ScoreColumns(load_matrix(tmp_path, 50))
    np.testing.assert_array_equal(mapped.search([[1, 2]], 3).rows, columns.search([[1, 2]], 3).rows)
    assert len(max_score._search.signatures) == before == 1


def test_rows_are_scored_in_any_order_and_more_than_once():
    dense = wordy(np.random.default_rng(1), 50, 10)
    rows = np.array([7, 3, 3, 49, 0])
    np.testing.assert_array_equal(columns_of(dense).scores([4, 2, 4], rows), whole_sums(dense, [4, 2, 4])[rows])


def test_where_compiled_code_cannot_be_kept_every_process_compiles_for_itself(monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])  # no folder of numba's can be written
    with pytest.raises(RuntimeError, match="cannot cache function"):
        numba.njit(cache=True)(max_score._place_of.py_func)
    place_of = max_score.compiled(max_score._place_of.py_func)
    assert [place_of(np.array([2, 4, 4, 9]), row, 0, 4) for row in (0, 2, 3, 9, 10)] == [0, 0, 1, 3, 4]
