"""Exact search by inner product: one block of passage vectors after the other is searched, and the results are merged.

Memory holds one block and the result so far, whatever the size of the corpus. Nothing is approximated: FAISS's flat
index multiplies and selects, on a GPU if the process has one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import faiss


@dataclass(frozen=True)
class Hits:
    """The best passages of Q queries, by descending score and then ascending row.

    Attributes:
        rows: `(Q, k) int64` passage rows; -1 where a query has fewer than k hits.
        scores: `(Q, k) float32`; -inf where the row is -1.
    """

    rows: np.ndarray
    scores: np.ndarray

    @classmethod
    def empty(cls, queries: int, k: int) -> Hits:
        """Hits of a search that has found nothing yet."""
        return cls(np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32))

    def scores_of(self, query: int, rows: np.ndarray) -> np.ndarray:
        """(C,) float32 scores of C passages `rows` for one of the queries; NaN for a passage that is no hit."""
        order = np.argsort(self.rows[query], kind="stable")
        found = self.rows[query][order]
        places = np.minimum(np.searchsorted(found, rows), len(found) - 1)
        return np.where(found[places] == rows, self.scores[query][order][places], np.float32(np.nan))


@dataclass(frozen=True)
class Block:
    """A block of n passages: their `(n,) int64` rows in PASSAGES, ascending, and a flat index of their vectors."""

    rows: np.ndarray
    index: faiss.Index

    @classmethod
    def of(cls, rows: np.ndarray, vectors: np.ndarray) -> Block:
        """Builds the index of `vectors`, (n, d) float32, on the CPU."""
        import faiss

        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(np.ascontiguousarray(vectors, dtype=np.float32))
        return cls(rows, index)

    @property
    def bytes(self) -> int:
        """Memory of the vectors in bytes."""
        return self.index.ntotal * self.index.d * 4


def merge(first: Hits, second: Hits) -> Hits:
    """Merges two results for the same queries into the best k of both, k as in `first`; they share no passage."""
    k = first.rows.shape[1]
    rows = np.concatenate([first.rows, second.rows], axis=1)
    scores = np.concatenate([first.scores, second.scores], axis=1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return Hits(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))


def search(queries: np.ndarray, blocks: Iterable[Block], k: int) -> Hits:
    """Finds the exact top k of each query over all blocks, as (Q, k) hits.

    Args:
        queries: `(Q, d) float32` vectors.
        blocks: blocks of passages; no row occurs twice.
        k: hits per query.
    """
    import faiss

    best = Hits.empty(len(queries), k)
    on_gpu = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    resources = faiss.StandardGpuResources() if on_gpu else None
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    for block in blocks:
        if not block.index.ntotal or not len(queries):
            continue
        index = faiss.index_cpu_to_gpu(resources, 0, block.index) if resources else block.index
        scores, positions = index.search(queries, min(k, block.index.ntotal))
        best = merge(best, Hits(np.where(positions >= 0, block.rows[positions], -1), scores))
    return best
