"""Rows of committed tables by number: reading just some of them, and following a row from one table to the next.

Every stage here turns consecutive input rows into consecutive output rows, with drops and rejects left out. So the
commit records of a table say where the results of given input rows lie, and no worker needs an index of all ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.tables.plan import Shard, plan_shards
from cluster.tables.table import Table


class RowReader:
    """Random access to the rows of a complete table, keeping whole files in memory up to a budget.

    Kept are the files that were read first, and beside them the last one. Whoever goes through a larger table again and
    again, as every shard of scores does, finds the first files there each time; were the longest unused thrown away, it
    would find none.

    Args:
        table: a complete table.
        columns: what is read of it.
        budget_bytes: Arrow memory of the files that stay.
    """

    def __init__(self, table: Table, columns: list[str], budget_bytes: int = 1 << 30) -> None:
        self.table = table
        self.columns = columns
        self.budget_bytes = budget_bytes
        self.files = table.files()
        self.starts = np.concatenate([[0], np.cumsum([rows for _, rows in self.files])]).astype(np.int64)
        self._kept: dict[int, pa.Table] = {}
        self._bytes = 0
        self._last: tuple[int, pa.Table] | None = None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def file(self, number: int) -> pa.Table:
        """The rows of one data file, in the order of the plan.

        Raises:
            DamagedError: the file is not what was committed.
        """
        if number in self._kept:
            return self._kept[number]
        if self._last and self._last[0] == number:
            return self._last[1]
        rows = self.table.read_file(self.files[number][0], self.columns)
        if self._bytes + rows.nbytes <= self.budget_bytes:
            self._kept[number] = rows
            self._bytes += rows.nbytes
        else:
            self._last = (number, rows)
        return rows

    def range(self, start: int, stop: int) -> pa.Table:
        """Rows `start` to `stop`."""
        return self.take(np.arange(start, stop, dtype=np.int64))

    def take(self, rows: np.ndarray) -> pa.Table:
        """The rows named by `rows` (n,) int64, in that order; a row may be named twice."""
        wanted, where = np.unique(rows, return_inverse=True)
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < len(self):
            raise IndexError(f"rows {wanted[0]} to {wanted[-1]} of a table of {len(self)}")
        owners = np.searchsorted(self.starts, wanted, side="right") - 1
        parts = [
            self.file(number).take(pa.array(wanted[owners == number] - self.starts[number]))
            for number in np.unique(owners).tolist()
        ]
        if not parts:
            return pa.table({name: pa.array([], type=pa.null()) for name in self.columns})
        return pa.concat_tables(parts).take(pa.array(where))


class Lineage:
    """Which output rows of a complete table come from which input rows.

    Args:
        table: a complete table whose shards are consecutive input rows, one unit each.
    """

    def __init__(self, table: Table) -> None:
        commits = table.whole()
        self._inputs = np.concatenate([[0], np.cumsum([commit.units for commit in commits])]).astype(np.int64)
        self._outputs = np.concatenate([[0], np.cumsum([commit.rows for commit in commits])]).astype(np.int64)

    def outputs(self, start: int, stop: int) -> tuple[int, int]:
        """A range of output rows that holds everything made of input rows `start` to `stop`, and whole shards."""
        return self._range(self._inputs, self._outputs, start, stop)

    def inputs(self, start: int, stop: int) -> tuple[int, int]:
        """A range of input rows that output rows `start` to `stop` were made of, whole shards."""
        return self._range(self._outputs, self._inputs, start, stop)

    @staticmethod
    def _range(known: np.ndarray, other: np.ndarray, start: int, stop: int) -> tuple[int, int]:
        if stop <= start:
            return 0, 0
        first = int(np.searchsorted(known, start, side="right")) - 1
        last = int(np.searchsorted(known, stop, side="left"))
        return int(other[first]), int(other[last])


def plan_over(tables: Sequence[Table], rows_per_shard: int) -> list[Shard]:
    """Cuts several tables, one after the other, into shards; `params["first"]` is the number of a shard's first row."""
    shards: list[Shard] = []
    first = 0
    for table in tables:
        for shard in plan_shards(table, rows_per_shard):
            shards.append(replace(shard, name=f"{len(shards):05d}", params={"first": first}))
            first += shard.rows
    return shards


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


def list_column(values: np.ndarray, lengths: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    """A list column from all values in one `(sum of lengths,)` array."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, type=kind))
