"""Reader of Parquet files. It reads the columns of the fields and the row groups of the shard, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import InputError
from cluster.tables.plan import Shard
from generation.readers.base import Record
from generation.readers.fields import Fields
from generation.readers.files import ShardCutter, checksums, find_files, open_file, shown_name

SUFFIXES = (".parquet",)
BATCH_ROWS = 2_000


@dataclass(frozen=True)
class ParquetReader:
    """Parquet. A shard is a row number: that of the record before it, or of its first record."""

    path: Path
    fields: Fields

    def fingerprint(self) -> dict[str, Any]:
        """Sizes and checksums of the files."""
        return checksums(self.path, find_files(self.path, SUFFIXES))

    def plan(self, rows_per_shard: int, max_rows: int | None) -> list[Shard]:
        """Shards of the rows; reads only the footers of the files.

        Raises:
            InputError: there is no file, a file is not Parquet or lacks a field, or no file holds a row.
        """
        cutter = ShardCutter(rows_per_shard, max_rows)
        for name in find_files(self.path, SUFFIXES):
            with self._open(name) as file:
                self.fields.check(file.schema_arrow.names, shown_name(self.path, name))
                rows = file.metadata.num_rows
            if not cutter.full:
                cutter.cut(({"row": row} for row in range(rows)), file=name)
        return cutter.done(str(self.path))

    def read(self, shard: Shard, start: int, stop: int) -> Iterator[Record]:
        """Records `start` to `stop` of a shard.

        Raises:
            InputError: the file is damaged, or a row lacks an id or has a field of the wrong type.
        """
        first = shard.params["row"] + shard.params["before"] + start
        last = first + stop - start
        name = shown_name(self.path, shard.params["file"])
        with self._open(shard.params["file"]) as file:
            columns = [column for column in file.schema_arrow.names if column in self.fields.all]
            groups, row = _groups(file, first, last)
            try:
                for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns):
                    skip = max(0, first - row)
                    for number, raw in enumerate(batch.slice(skip, last - row - skip).to_pylist(), row + skip + 1):
                        yield self.fields.record(raw, name, f"row {number}")
                    row += len(batch)
                    if row >= last:
                        return
            except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
                raise _damaged(name, error) from None

    def _open(self, name: str) -> pq.ParquetFile:
        open_file(self.path, name).close()
        shown = shown_name(self.path, name)
        try:
            return pq.ParquetFile(shown)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(shown, error) from None


def _groups(file: pq.ParquetFile, first: int, last: int) -> tuple[list[int], int]:
    """Row groups that hold rows `first` to `last`, and the row number at which the first group begins."""
    groups: list[int] = []
    begin = group_begin = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if group_begin < last and group_begin + rows > first:
            begin = begin if groups else group_begin
            groups.append(group)
        group_begin += rows
    return groups, begin


def _damaged(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(
        f"{name}: cannot be read as Parquet ({reason}). Write the file again, or name its format with corpus.format."
    )
