"""Vectors of committed tables: as arrays, and with the passage that each vector belongs to."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import InputError
from cluster.overwrite import name_of
from cluster.tables.row_reader import RowReader
from cluster.tables.table import Table


def rows_of_vectors(vectors: Table, passage_ids: pa.ChunkedArray) -> np.ndarray | None:
    """(vectors,) int64 row in PASSAGES of every vector, ascending; None if every passage has a vector.

    Without rejects, a vector and its passage have the same row. So only the files of shards with rejects are read.

    Args:
        vectors: PASSAGE_VECTORS; it has no row for a passage that was rejected.
        passage_ids: ids of all PASSAGES.
    """
    if vectors.num_rows == len(passage_ids):
        return None
    reader = RowReader(vectors, ["id"], budget_bytes=0)
    parts, passages, rows = [np.empty(0, np.int64)], 0, 0
    for commit in vectors.all_commits():
        if commit.rows == commit.units:
            parts.append(np.arange(passages, passages + commit.units, dtype=np.int64))
        elif commit.rows:
            ids = reader.range(rows, rows + commit.rows).column(0)
            own = passage_ids.slice(passages, commit.units)
            parts.append(pc.index_in(ids, value_set=own).to_numpy().astype(np.int64) + passages)
        passages, rows = passages + commit.units, rows + commit.rows
    return np.concatenate(parts)


def vectors_of(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """(n, d) float32 array of a column of n lists, each of d numbers."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), -1) for chunk in chunks if len(chunk)]
    return np.concatenate(parts).astype(np.float32, copy=False) if parts else np.empty((0, 0), np.float32)


def refuse_other_dimensions(passages: Table, queries: Table) -> None:
    """Refuses vectors that cannot be multiplied: their model was replaced by another one under the same name.

    Args:
        passages: PASSAGE_VECTORS.
        queries: QUERY_VECTORS of the same encoder.

    Raises:
        InputError: they have different numbers of dimensions.
    """
    lengths = [
        vectors_of(RowReader(table, ["vector"], budget_bytes=0).range(0, 1).column("vector")).shape[1]
        for table in (passages, queries)
        if table.num_rows
    ]
    if len(set(lengths)) > 1:
        raise InputError(
            f"the vectors in {passages.path} have {lengths[0]} dimensions, those in {queries.path} {lengths[1]}. The "
            f"model has changed since the first were made. Run again with --overwrite {name_of(passages.path)}."
        )
