"""Spreads a choice over clusters: every cluster gets as many as the others, or in proportion to its weight.

It is water filling: a cluster that has no more passages is full, and the others share what is left. All passages are
put into one order whose beginnings are all spread like this. So a run that stops earlier is spread, too.
"""

from __future__ import annotations

import numpy as np


def spread_order(labels: np.ndarray, weights: np.ndarray, seed: int) -> np.ndarray:
    """An order of n members in which the first m are spread over their clusters, for every m.

    The next member comes from the cluster that has least for its weight: member j = 0, 1, … of cluster c stands at
    (j + ½) / weight, which is the method of Sainte-Laguë. Clusters that are level, and the members of a cluster, come
    in random order.

    Args:
        labels: `(n,) int` cluster of every member, from 0.
        weights: `(k,) float` weights of the clusters; one of weight 0 comes after all others.
        seed: of the random order.

    Returns:
        `(n,) int64` positions of the members.
    """
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(labels))
    by_cluster = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sorted_labels = labels[by_cluster]
    starts = np.searchsorted(sorted_labels, np.arange(len(weights)))
    ranks = np.arange(len(labels)) - starts[sorted_labels]
    with np.errstate(divide="ignore"):
        place = (ranks + 0.5) / weights[sorted_labels]
    turn = generator.permutation(len(weights))[sorted_labels]
    return by_cluster[np.lexsort((ranks, turn, place))]


def log_weights(counts: np.ndarray, sizes: np.ndarray, floor: float) -> np.ndarray:
    """Weights of clusters by how many real queries fall into them, `(k,) float64`, which sum to 1.

    Args:
        counts: `(k,) int` queries in each cluster.
        sizes: `(k,) int` passages in each that may be chosen; clusters without any share nothing.
        floor: share that is given to all clusters evenly.
    """
    filled = sizes > 0
    asked = np.where(filled, counts, 0).astype(np.float64)
    if not asked.sum():
        return filled / max(1, filled.sum())
    return floor * filled / filled.sum() + (1 - floor) * asked / asked.sum()
