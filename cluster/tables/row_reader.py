"""A reader of single rows of a committed table, by row number."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from cluster.tables.table import Table


class RowReader:
    """Random access to the rows of a complete table, with a cache of whole files up to a budget.

    The cache holds the files that were read first, and also the last one. A caller may read a table larger than the
    budget from start to end again and again, as every shard of the scores stage does. It then finds the first files in
    the cache each time; a cache that drops the least recently used file would never hold the file that comes next.

    Args:
        table: a complete table.
        columns: the columns to read.
        budget_bytes: Arrow memory of the cached files, without the last one.
    """

    def __init__(self, table: Table, columns: list[str], budget_bytes: int = 1 << 30) -> None:
        self.table = table
        self.columns = columns
        self.budget_bytes = budget_bytes
        self.files = table.files()
        self.starts = np.concatenate([[0], np.cumsum([rows for _, rows in self.files])]).astype(np.int64)
        self._cached: dict[int, pa.Table] = {}
        self._cached_bytes = 0
        self._last: tuple[int, pa.Table] | None = None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def file(self, number: int) -> pa.Table:
        """All rows of one data file; files are numbered in the order of the plan.

        Raises:
            DamagedError: the file is not the one that was committed.
        """
        if number in self._cached:
            return self._cached[number]
        if self._last and self._last[0] == number:
            return self._last[1]
        rows = self.table.read_file(self.files[number][0], self.columns)
        if self._cached_bytes + rows.nbytes <= self.budget_bytes:
            self._cached[number] = rows
            self._cached_bytes += rows.nbytes
        else:
            self._last = (number, rows)
        return rows

    def range(self, start: int, stop: int) -> pa.Table:
        """Rows `start` to `stop`."""
        return self.take(np.arange(start, stop, dtype=np.int64))

    def take(self, rows: np.ndarray) -> pa.Table:
        """The rows with the numbers `rows` (n,) int64, in that order; a number may occur twice."""
        wanted, positions = np.unique(rows, return_inverse=True)
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < len(self):
            raise IndexError(f"rows {wanted[0]} to {wanted[-1]} of a table of {len(self)}")
        owners = np.searchsorted(self.starts, wanted, side="right") - 1
        parts = [
            self.file(number).take(pa.array(wanted[owners == number] - self.starts[number]))
            for number in np.unique(owners).tolist()
        ]
        if not parts:
            return pa.table({name: pa.array([], type=pa.null()) for name in self.columns})
        return pa.concat_tables(parts).take(pa.array(positions))
