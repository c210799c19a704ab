"""A reader of the input rows of a shard, from the data files of another table."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.tables.commit import read_checked
from cluster.tables.plan import Shard
from cluster.tables.storage import Storage


class ShardReader:
    """Reads rows of shards. It holds the last data file open, because neighbouring shards share files."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._path = ""
        self._file: pq.ParquetFile | None = None

    def rows(self, shard: Shard, start: int, stop: int) -> pa.Table | None:
        """Rows `start` to `stop` of a shard, or None if the shard's input is no table.

        Raises:
            DamagedError: a data file is missing or not the one that was committed.
        """
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
    """Rows `start` to `stop`, read from the row groups that hold them.

    All row groups but the last have the same size (`put_rows`).
    """
    size = max(file.metadata.row_group(0).num_rows, 1)
    first = start // size
    return file.read_row_groups(list(range(first, -(-stop // size)))).slice(start - first * size, stop - start)
