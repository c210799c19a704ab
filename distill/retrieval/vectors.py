"""Vectors in committed tables: as arrays, and the passage that each of them belongs to."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.tables.row_reader import RowReader
from cluster.tables.table import Table


def rows_of_vectors(vectors: Table, passage_ids: pa.ChunkedArray) -> np.ndarray | None:
    """Row in PASSAGES of every vector, ascending; None where each passage has one, so that rows are the same.

    Args:
        vectors: PASSAGE_VECTORS; passages that were rejected there are left out.
        passage_ids: of all PASSAGES.
    """
    if vectors.num_rows == len(passage_ids):
        return None
    made = RowReader(vectors, ["id"]).range(0, vectors.num_rows).column(0)
    return pc.index_in(made, value_set=passage_ids).to_numpy().astype(np.int64)


def vectors_of(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """(n, d) float32 of a column of n equally long lists."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), -1) for chunk in chunks if len(chunk)]
    return np.concatenate(parts).astype(np.float32, copy=False) if parts else np.empty((0, 0), np.float32)
