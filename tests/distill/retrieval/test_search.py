"""Exact search over blocks against numpy over all vectors."""

from __future__ import annotations

import numpy as np
import pytest

from distill.retrieval.search import Block, Hits, inner_products, merge, search


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


def doubles(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Five queries, and vectors that are mostly copies and near copies of six, so that far more tie than any depth."""
    some = generator.normal(size=(6, 48)).astype(np.float32)
    vectors = some[generator.integers(0, 6, size=400)]
    near = generator.permutation(400)[:80]
    vectors[near] = np.nextafter(vectors[near], np.float32(9))
    vectors[generator.permutation(400)[:40]] = generator.normal(size=(40, 48)).astype(np.float32)
    return generator.normal(size=(5, 48)).astype(np.float32), vectors


@pytest.mark.parametrize("k", [1, 10, 100])
def test_many_equal_vectors_give_the_same_hits_whatever_the_blocks_and_the_queries_beside(k: int):
    queries, vectors = doubles(np.random.default_rng(4))
    queries = np.concatenate([queries, np.random.default_rng(5).normal(size=(40, 48)).astype(np.float32)])
    scores = np.array([inner_products(query[None], vectors) for query in queries])
    assert np.abs(scores - queries.astype(float) @ vectors.T.astype(float)).max() < 1e-5
    expected = np.lexsort((np.broadcast_to(np.arange(400), scores.shape), -scores), axis=1)[:, :k]
    for size in (9, 64, 400):
        blocks = [Block.of(np.arange(a, min(a + size, 400)), vectors[a : a + size]) for a in range(0, 400, size)]
        for order in (blocks, blocks[::-1]):
            hits = search(queries, order, k)
            np.testing.assert_array_equal(hits.rows, expected)
            np.testing.assert_array_equal(hits.scores, np.take_along_axis(scores, expected, 1))
    alone = [search(queries[number : number + 1], blocks, k) for number in range(0, 45, 9)]
    np.testing.assert_array_equal(np.concatenate([one.rows for one in alone]), expected[::9])


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


class OnGpu:
    """What FAISS gives for an index on a GPU, with its limit; the numbers are those of the CPU."""

    def __init__(self, index) -> None:
        self.index = index

    def search(self, queries, k: int):
        assert k <= 2048, "GPU index only supports min/max-K selection up to 2048"
        calls.append(k)
        return self.index.search(queries, k)


calls: list[int] = []


@pytest.mark.parametrize(("k", "on_gpu"), [(50, True), (2000, True), (2048, False), (5000, False)])
def test_a_search_deeper_than_a_gpu_can_select_stays_on_the_cpu(k: int, on_gpu: bool, monkeypatch):
    import faiss

    vectors = np.random.default_rng(1).standard_normal((6000, 4)).astype(np.float32)
    expected = search(vectors[:3], [Block.of(np.arange(6000), vectors)], k)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda _, number, index: OnGpu(index), raising=False)
    calls.clear()
    found = search(vectors[:3], [Block.of(np.arange(6000), vectors)], k)
    assert bool(calls) == on_gpu
    np.testing.assert_array_equal(found.rows, expected.rows)


def test_cut_cosines_stay_cosines_and_cut_inner_products_keep_their_lengths():
    from distill.retrieval.dense import cut

    vectors = np.random.default_rng(3).standard_normal((5, 8)).astype(np.float32)
    np.testing.assert_allclose(cut(vectors, 3), vectors[:, :3])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(np.linalg.norm(cut(unit, 3), axis=1), 1, rtol=1e-6)
    assert cut(unit, 3).dtype == np.float32
