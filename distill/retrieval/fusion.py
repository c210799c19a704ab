"""Reciprocal rank fusion: several ranked runs of one query become one.

Only ranks count, so retrievers whose scores have nothing in common (cosines, BM25) fuse without calibration.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def reciprocal_rank_fusion(runs: Sequence[np.ndarray], k: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Fuses the runs of one query: a passage scores the sum of 1 / (k + rank) over the runs that hold it.

    Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
    SIGIR 2009; ranks start at 1.

    Args:
        runs: one `(depth,) int64` array of passage rows per retriever, best first; negative entries are padding.
        k: the constant that damps the first ranks, 60 in the paper.

    Returns:
        `(U,) int64` rows of all U passages, by descending score and then ascending row; their `(U,) float32` scores.
    """
    kept = [run[run >= 0] for run in runs]
    gains = [1.0 / (k + np.arange(1, len(run) + 1, dtype=np.float64)) for run in kept]
    if not kept:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    rows, where = np.unique(np.concatenate(kept), return_inverse=True)
    scores = np.bincount(where, weights=np.concatenate(gains), minlength=len(rows))
    order = np.lexsort((rows, -scores))
    return rows[order].astype(np.int64), scores[order].astype(np.float32)
