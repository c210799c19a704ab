"""Exact search by inner product: one block of passage vectors after the other is searched, and the results are merged.

Memory holds one block and the result so far, whatever the size of the corpus. Nothing is approximated: FAISS's flat
index multiplies and selects, on a GPU if the process has one.

The result does not depend on how passages are cut into blocks, nor queries into searches. A matrix product rounds by
the shapes of its matrices, so FAISS only proposes passages. Their scores are computed pair by pair (`inner_products`),
and those that FAISS left out are looked at if rounding or a tie could have brought them among the best.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import faiss

SPARE = 16  # passages beyond the k best that FAISS proposes, so that rounding seldom makes it search again
MOST_ON_GPU = 2048  # hits of a search that FAISS can select on a GPU; a deeper search stays on the CPU
PAIRS = 16_384  # whose vectors are gathered at once


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


@dataclass(frozen=True)
class Block:
    """A block of n passages: their `(n,) int64` rows in PASSAGES, ascending, and a flat index of their vectors."""

    rows: np.ndarray
    index: faiss.IndexFlat

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

    @property
    def vectors(self) -> np.ndarray:
        """(n, d) float32 view of the vectors."""
        import faiss

        flat = faiss.rev_swig_ptr(self.index.get_xb(), self.index.ntotal * self.index.d)
        return flat.reshape(self.index.ntotal, self.index.d)


def inner_products(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(n,) float32 inner products of n pairs of float32 vectors, (n, d) or (1, d) with (n, d).

    The product of a pair depends on its two vectors alone, to the bit: numpy sums each row in a fixed order.
    """
    return (queries * vectors).sum(axis=-1, dtype=np.float32)


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
    has_gpu = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    on_gpu = has_gpu and k + SPARE <= MOST_ON_GPU
    resources = faiss.StandardGpuResources() if on_gpu else None
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    for block in blocks:
        if not block.index.ntotal or not len(queries):
            continue
        index = faiss.index_cpu_to_gpu(resources, 0, block.index) if resources else block.index
        proposed = index.search(queries, min(k + SPARE, block.index.ntotal))
        best = _with_block(best, queries, block, *proposed)
    return best


def _with_block(best: Hits, queries: np.ndarray, block: Block, proposed: np.ndarray, positions: np.ndarray) -> Hits:
    """The result so far, merged with what FAISS proposes of a block: (Q, n) scores, rounded, and positions, best first.

    A score of FAISS and that of `inner_products` are both at most `error` from the true one: the error of a sum of d
    terms in any order, Higham, "Accuracy and Stability of Numerical Algorithms", SIAM 2002, eq. 3.5.
    """
    vectors = block.vectors
    longest = float(np.sqrt(np.max(np.einsum("nd,nd->n", vectors, vectors))))
    error = (vectors.shape[1] + 1) * 2.0**-24 * np.linalg.norm(queries, axis=1) * longest
    scores = np.full(proposed.shape, -np.inf, np.float32)
    worth = (positions >= 0) & (proposed >= best.scores[:, -1:] - 2 * error[:, None])
    query_of, place = np.nonzero(worth)
    for start in range(0, len(query_of), PAIRS):
        part = query_of[start : start + PAIRS], place[start : start + PAIRS]
        scores[part] = inner_products(queries[part[0]], vectors[positions[part]])
    rows = np.where(np.isneginf(scores), -1, block.rows[positions])
    merged = merge(best, Hits(rows, scores))
    # Whether a passage that FAISS left out can be among the best k: its score is at most the last proposed one.
    unsure = proposed[:, -1] + 2 * error >= merged.scores[:, -1]
    for query in np.flatnonzero(unsure) if proposed.shape[1] < len(vectors) else ():
        enough = merged.scores[query, -1] - 2 * error[query]
        found = np.flatnonzero(vectors @ queries[query] >= enough)
        own = [
            inner_products(queries[query : query + 1], vectors[found[start : start + PAIRS]])
            for start in range(0, len(found), PAIRS)
        ]
        one = Hits(best.rows[query : query + 1], best.scores[query : query + 1])
        one = merge(one, Hits(block.rows[found][None], np.concatenate([np.empty(0, np.float32), *own])[None]))
        merged.rows[query], merged.scores[query] = one.rows[0], one.scores[0]
    return merged
