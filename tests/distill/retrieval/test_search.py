"""Exact search over blocks against numpy over all vectors."""

from __future__ import annotations

import numpy as np
import pytest

from distill.retrieval.search import Block, Hits, merge, search


def brute_force(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("block_rows", [1, 7, 50, 1000])
def test_search_over_any_blocks_equals_numpy_over_all_vectors(block_rows: int):
    generator = np.random.default_rng(0)
    queries = generator.normal(size=(9, 16)).astype(np.float32)
    vectors = generator.normal(size=(123, 16)).astype(np.float32)
    cuts = range(0, len(vectors), block_rows)
    blocks = (Block.of(np.arange(a, min(a + block_rows, 123)), vectors[a : a + block_rows]) for a in cuts)
    hits = search(queries, blocks, 10)
    np.testing.assert_array_equal(hits.rows, brute_force(queries, vectors, 10))
    expected = np.take_along_axis(queries @ vectors.T, hits.rows, 1)
    np.testing.assert_allclose(hits.scores, expected, rtol=1e-5, atol=1e-5)


def test_rows_need_not_be_consecutive_and_missing_hits_are_minus_one():
    vectors = np.eye(3, dtype=np.float32)
    hits = search(vectors[:1], [Block.of(np.array([4, 8, 15]), vectors)], 5)
    assert hits.rows.tolist() == [[4, 8, 15, -1, -1]]
    assert np.isneginf(hits.scores[0, 3:]).all()


def test_equal_scores_are_ordered_by_row_whatever_block_they_come_from():
    vectors = np.ones((4, 2), dtype=np.float32)
    blocks = [Block.of(np.array([2, 3]), vectors[:2]), Block.of(np.array([0, 1]), vectors[2:])]
    assert search(vectors[:1], blocks, 3).rows.tolist() == [[0, 1, 2]]


def test_no_blocks_and_no_queries_give_no_hits():
    assert (search(np.ones((2, 4), np.float32), [], 3).rows == -1).all()
    assert search(np.ones((0, 4), np.float32), [Block.of(np.arange(1), np.ones((1, 4), np.float32))], 3).rows.size == 0


def test_merge_keeps_the_best_of_both():
    first = Hits(np.array([[1, 2]]), np.array([[0.9, 0.1]], np.float32))
    second = Hits(np.array([[3, -1]]), np.array([[0.5, -np.inf]], np.float32))
    merged = merge(first, second)
    assert merged.rows.tolist() == [[1, 3]]


def test_the_size_of_a_block_is_that_of_its_vectors():
    vectors = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    assert Block.of(np.arange(5), vectors).bytes == vectors.nbytes
