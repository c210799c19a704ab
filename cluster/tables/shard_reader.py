"""Reads the rows of a shard out of the data files of another table."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.tables.commit import read_checked
from cluster.tables.plan import Shard
from cluster.tables.storage import Storage


class ShardReader:
    """Reads rows of shards; holds the last data file, since neighbouring shards share it."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._path = ""
        self._file: pq.ParquetFile | None = None

    def rows(self, shard: Shard, start: int, stop: int) -> pa.Table | None:
        """Rows `start` to `stop` of a shard, or None if it is no rows of a table."""
        if not shard.slices:
            return None
        parts = []
        for piece in shard.slices:
            if piece.file != self._path or self._file is None:
                self._path, self._file = "", None  # free the old file before the new one is read
                self._file = pq.ParquetFile(pa.BufferReader(read_checked(self.storage, piece.file)))
                self._path = piece.file
            part = _row_range(self._file, piece.start, piece.stop)
            parts.append(part.filter(pc.field(piece.where)) if piece.where else part)
        return pa.concat_tables(parts).slice(start, stop - start)


def _row_range(file: pq.ParquetFile, start: int, stop: int) -> pa.Table:
    """Rows `start` to `stop`, out of the row groups that hold them; all but the last are of one size (`put_rows`)."""
    size = max(file.metadata.row_group(0).num_rows, 1)
    first = start // size
    return file.read_row_groups(list(range(first, -(-stop // size)))).slice(start - first * size, stop - start)
