"""The nearest neighbours of passages by their vectors: an exact search, one data file of vectors after the other.

Memory holds the vectors of the passages that are asked for, one file, and the best so far, whatever the size of the
corpus.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from generation.cleaning.words import words
from generation.sources.clusters import normalised
from generation.sources.settings import NeighbourSettings

KEPT = 4  # nearest passages whose texts are compared
SAME_WORDS = 0.8  # share of the words of the shorter text that the other has; from here on it is a copy


def nearest(
    asked: np.ndarray,
    own_rows: np.ndarray,
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
    eligible: np.ndarray,
    limits: NeighbourSettings,
    count: int = KEPT,
) -> np.ndarray:
    """The nearest passages within the limits, `(Q, count) int64` rows, best first, -1 where there are no more.

    Args:
        asked: `(Q, d) float32` vectors.
        own_rows: `(Q,) int64` rows of the passages that they belong to.
        blocks: vectors of all passages: `(n,) int64` rows, ascending, and `(n, d) float32` vectors.
        eligible: `(P,) bool`, which passages may be neighbours.
        limits: of the cosine.
        count: most neighbours of each.
    """
    asked = normalised(asked)
    best_rows = np.full((len(asked), count), -1, np.int64)
    best = np.full((len(asked), count), -np.inf, np.float32)
    for rows, vectors in blocks:
        similar = asked @ normalised(vectors).T
        outside = (similar < limits.min_similarity) | (similar > limits.max_similarity)
        similar[outside | ~eligible[rows] | (rows == own_rows[:, None])] = -np.inf
        if similar.shape[1] > count:
            places = np.argpartition(-similar, count - 1, axis=1)[:, :count]
            similar = np.take_along_axis(similar, places, 1)
        else:
            places = np.broadcast_to(np.arange(similar.shape[1]), similar.shape)
        both = np.concatenate([best, similar], axis=1)
        both_rows = np.concatenate([best_rows, np.where(np.isfinite(similar), rows[places], -1)], axis=1)
        order = np.lexsort((both_rows, -both), axis=1)[:, :count]
        best, best_rows = np.take_along_axis(both, order, 1), np.take_along_axis(both_rows, order, 1)
    return best_rows


def is_copy(first: str, second: str) -> bool:
    """Whether the shorter of two texts has nearly no word that the other has not."""
    own, other = set(words(first)), set(words(second))
    fewer = min(len(own), len(other))
    return not fewer or len(own & other) >= SAME_WORDS * fewer
