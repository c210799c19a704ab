"""Lineage: which output rows of a table were made from which input rows, read from its commit records.

Every stage turns consecutive input rows into consecutive output rows, and leaves out drops and rejects. So the commit
records tell where the results of given input rows are, and no worker needs an index of all ids.
"""

from __future__ import annotations

import numpy as np

from cluster.tables.table import Table


class Lineage:
    """The map between input rows and output rows of a complete table, shard by shard.

    Args:
        table: a complete table whose shards are consecutive input rows, one unit each.
    """

    def __init__(self, table: Table) -> None:
        commits = table.all_commits()
        self._inputs = np.concatenate([[0], np.cumsum([commit.units for commit in commits])]).astype(np.int64)
        self._outputs = np.concatenate([[0], np.cumsum([commit.rows for commit in commits])]).astype(np.int64)

    def outputs(self, start: int, stop: int) -> tuple[int, int]:
        """The range of output rows of all shards that contain any of the input rows `start` to `stop`."""
        return self._range(self._inputs, self._outputs, start, stop)

    def inputs(self, start: int, stop: int) -> tuple[int, int]:
        """The range of input rows of all shards that contain any of the output rows `start` to `stop`."""
        return self._range(self._outputs, self._inputs, start, stop)

    @staticmethod
    def _range(known: np.ndarray, other: np.ndarray, start: int, stop: int) -> tuple[int, int]:
        if stop <= start:
            return 0, 0
        first = int(np.searchsorted(known, start, side="right")) - 1
        last = int(np.searchsorted(known, stop, side="left"))
        return int(other[first]), int(other[last])
