"""Reciprocal rank fusion: merges several ranked runs of many queries into one run.

It uses ranks and no scores, so retrievers with unlike scores (cosine, BM25) need no calibration. All queries are fused
at once, since numpy takes longer to be called than to fuse the few passages of one query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill.lists.ensemble import RRF_K
from distill.retrieval.search import Hits


@dataclass(frozen=True)
class Fused:
    """The fused runs of Q queries: N passages, one query after the other.

    The passages of a query stand by descending score, and then by ascending row.

    Attributes:
        queries: `(N,) int64` number of the query, ascending; a query without passages is not among them.
        rows: `(N,) int64` passage rows.
        scores: `(N,) float32` fused scores.
        own: `(R, N) float32` scores that the R retrievers gave; NaN where a retriever has not returned the passage.
    """

    queries: np.ndarray
    rows: np.ndarray
    scores: np.ndarray
    own: np.ndarray

    @property
    def ranks(self) -> np.ndarray:
        """`(N,) int64` rank of each passage among those of its query, from 0."""
        return np.arange(len(self.queries)) - np.searchsorted(self.queries, self.queries)

    def where(self, stays: np.ndarray) -> Fused:
        """The passages for which the `(N,) bool` is true."""
        return Fused(self.queries[stays], self.rows[stays], self.scores[stays], self.own[:, stays])

    def counts(self, queries: int) -> np.ndarray:
        """`(Q,) int64` number of passages of each of Q queries."""
        return np.bincount(self.queries, minlength=queries)


def reciprocal_rank_fusion(runs: Sequence[Hits], k: int = RRF_K) -> Fused:
    """Fuses the runs of Q queries: a passage's score is the sum of 1 / (k + rank) over the runs that contain it.

    Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
    SIGIR 2009; ranks start at 1.

    Args:
        runs: the hits of each retriever for the same queries, at least one retriever; negative rows are padding.
        k: constant that lowers the weight of the first ranks.
    """
    found = [run.rows >= 0 for run in runs]
    rows = np.concatenate([run.rows[mask] for run, mask in zip(runs, found, strict=True)])
    if not len(rows):
        none = np.empty(0, np.int64)
        return Fused(none, none, np.empty(0, np.float32), np.empty((len(runs), 0), np.float32))
    queries = np.concatenate([np.nonzero(mask)[0] for mask in found])
    ranks = np.concatenate([np.cumsum(mask, axis=1)[mask] for mask in found])
    width = int(rows.max()) + 1
    pairs, place = np.unique(queries * width + rows, return_inverse=True)
    scores = np.bincount(place, weights=1.0 / (k + ranks), minlength=len(pairs))
    own = np.full((len(runs), len(pairs)), np.nan, np.float32)
    places = np.split(place, np.cumsum([mask.sum() for mask in found])[:-1])
    for of_run, run, mask, where in zip(own, runs, found, places, strict=True):
        of_run[where] = run.scores[mask]
    queries, rows = np.divmod(pairs, width)
    order = np.lexsort((rows, -scores, queries))
    return Fused(queries[order], rows[order], scores[order].astype(np.float32), own[:, order])
