"""Which output rows of a table come from which input rows, read from the table's commit records."""

from __future__ import annotations

import numpy as np

from cluster.tables.table import Table


class Lineage:
    """Which output rows of a complete table come from which input rows.

    Args:
        table: a complete table whose shards are consecutive input rows, one unit each.
    """

    def __init__(self, table: Table) -> None:
        commits = table.all_commits()
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
