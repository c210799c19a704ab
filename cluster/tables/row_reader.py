"""Rows of committed tables by number: reading just some of them, and following a row from one table to the next.

Every stage here turns consecutive input rows into consecutive output rows, with drops and rejects left out. So the
commit records of a table say where the results of given input rows lie, and no worker needs an index of all ids.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

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
