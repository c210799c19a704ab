"""Passages of some topics with vectors, written by hand: each topic is a direction with a little noise."""

from __future__ import annotations

import numpy as np

from cluster.schemas import CHOSEN, PASSAGE_VECTORS, PASSAGES
from cluster.tables.table import Table
from tests.tables import write_table

WIDTH = 16


def topics(sizes: list[int], seed: int = 0, noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """`(n, 16) float32` vectors of length 1 in shuffled order, and the topic of each, `(n,) int`."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    vectors = np.eye(WIDTH, dtype=np.float32)[labels] + noise * generator.normal(size=(len(labels), WIDTH))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def write_passages(workdir: str, count: int, judged: tuple[int, ...] = (), texts: list[str] | None = None) -> Table:
    rows = [
        {"passage_id": f"p{n}", "title": f"Title {n}", "text": texts[n] if texts else f"words{n} of{n} passage{n}",
         "is_source": n not in judged}
        for n in range(count)
    ]  # fmt: skip
    return write_table(workdir, PASSAGES, PASSAGES.path, rows)


def write_vectors(workdir: str, vectors: np.ndarray, side: str = "passages", missing: tuple[int, ...] = ()) -> Table:
    prefix = "p" if side == "passages" else "log:"
    rows = [{"id": f"{prefix}{n}", "vector": vector.tolist()} for n, vector in enumerate(vectors) if n not in missing]
    return write_table(workdir, PASSAGE_VECTORS, f"embeddings/base/{side}", rows, rejects=len(missing))


def write_chosen(workdir: str, rows: list[int]) -> Table:
    return write_table(workdir, CHOSEN, CHOSEN.path, [{"passage_id": f"p{row}", "row": row} for row in rows])
