"""Clusters of a table of vectors: k-means on a sample of it, then every vector is assigned as it is read.

Memory holds the sample, the centroids and one data file, whatever the number of vectors. Vectors are normalised, so
distance is the angle between them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cluster.tables.table import Table
from cluster.tables.vectors import vectors_of

MOST_CLUSTERS = 1024
SAMPLE_PER_CLUSTER = 128  # vectors that k-means is trained on; FAISS asks for 39 at least
ITERATIONS = 20


def default_clusters(vectors: int) -> int:
    """How many clusters so many vectors are cut into: their square root, and at most `MOST_CLUSTERS`."""
    return max(1, min(MOST_CLUSTERS, round(vectors**0.5)))


def train(vectors: Table, clusters: int, seed: int) -> np.ndarray:
    """Centroids by k-means on a sample, `(k, d) float32` of length 1; k is `clusters`, or all vectors if fewer.

    Args:
        vectors: a table with the column `vector`.
        clusters: wanted.
        seed: of sample and k-means.
    """
    import faiss

    total = vectors.num_rows
    count = min(total, clusters * SAMPLE_PER_CLUSTER)
    wanted = np.sort(np.random.default_rng(seed).choice(total, size=count, replace=False))
    parts, first = [], 0
    for batch in _batches(vectors):
        inside = wanted[(wanted >= first) & (wanted < first + len(batch))] - first
        parts.append(batch[inside])
        first += len(batch)
    sample = np.concatenate(parts)
    k_means = faiss.Kmeans(
        sample.shape[1], min(clusters, count), niter=ITERATIONS, seed=seed % 2**31, spherical=True,
        min_points_per_centroid=1, max_points_per_centroid=SAMPLE_PER_CLUSTER,
        # centroids that begin at random passages would all lie in large topics
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
    )  # fmt: skip
    k_means.train(sample)
    assert k_means.centroids is not None, "it was trained"
    return k_means.centroids


def assign(vectors: Table, centroids: np.ndarray) -> np.ndarray:
    """The nearest centroid of every vector, `(n,) int32`, in the order of the table."""
    import faiss

    index = faiss.IndexFlatIP(centroids.shape[1])
    index.add(centroids)
    parts = [index.search(batch, 1)[1][:, 0].astype(np.int32) for batch in _batches(vectors)]
    return np.concatenate(parts) if parts else np.empty(0, np.int32)


def normalised(vectors: np.ndarray) -> np.ndarray:
    """`(n, d) float32` vectors of length 1; a zero vector stays one."""
    return np.ascontiguousarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def _batches(vectors: Table) -> Iterator[np.ndarray]:
    for batch in vectors.batches(["vector"]):
        if batch.num_rows:
            yield normalised(vectors_of(batch.column("vector")))
