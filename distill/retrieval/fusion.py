"""Reciprocal rank fusion: merges several ranked runs of one query into one.

It uses ranks and no scores, so retrievers with unlike scores (cosine, BM25) need no calibration.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def reciprocal_rank_fusion(runs: Sequence[np.ndarray], k: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Fuses the runs of one query: a passage's score is the sum of 1 / (k + rank) over the runs that contain it.

    Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
    SIGIR 2009; ranks start at 1.

    Args:
        runs: one `(depth,) int64` array of passage rows per retriever, best first; negative entries are padding.
        k: constant that lowers the weight of the first ranks, 60 in the paper.

    Returns:
        `(U,) int64` rows of all U passages, by descending score and then ascending row; their `(U,) float32` scores.
    """
    unpadded = [run[run >= 0] for run in runs]
    gains = [1.0 / (k + np.arange(1, len(run) + 1, dtype=np.float64)) for run in unpadded]
    if not unpadded:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    rows, positions = np.unique(np.concatenate(unpadded), return_inverse=True)
    scores = np.bincount(positions, weights=np.concatenate(gains), minlength=len(rows))
    order = np.lexsort((rows, -scores))
    return rows[order].astype(np.int64), scores[order].astype(np.float32)
