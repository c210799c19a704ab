"""Reader of Parquet files. It reads the columns of the fields and the row groups of the shard, and no others.

In a partitioned folder the names of folders hold columns: every row of `lang=de/part-0.parquet` has `lang` "de".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import InputError
from cluster.files.columns import refuse_repeated
from cluster.files.content import GIT_LFS, refuse_pointer
from cluster.files.names import codec_of
from cluster.tables.plan import Shard
from generation.readers.base import Record
from generation.readers.fields import Fields
from generation.readers.files import ShardCutter, checksums, find_files, left_out, open_file, shown_name

SUFFIXES = (".parquet",)
BATCH_ROWS = 2_000
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class ParquetReader:
    """Parquet. A shard is a row number: that of the record before it, or of its first record."""

    path: Path
    fields: Fields

    def fingerprint(self) -> dict[str, Any]:
        """Sizes and checksums of the files."""
        return checksums(self.path, find_files(self.path, SUFFIXES))

    def notes(self) -> list[str]:
        """Files of the folder that are left out."""
        return left_out(self.path, SUFFIXES)

    def plan(self, rows_per_shard: int, max_rows: int | None) -> list[Shard]:
        """Shards of the rows; reads only the footers of the files.

        Raises:
            InputError: there is no file, a file is not Parquet or lacks a field, or no file holds a row.
        """
        cutter = ShardCutter(rows_per_shard, max_rows)
        for name in find_files(self.path, SUFFIXES):
            with self._open(name) as file:
                place = shown_name(self.path, name)
                names = [*_partition(name), *file.schema_arrow.names]
                refuse_repeated(names, place)
                self.fields.check(names, place)
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
        partition = _partition(shard.params["file"])
        with self._open(shard.params["file"]) as file:
            columns = [column for column in file.schema_arrow.names if column in self.fields.all]
            groups, row = _groups(file, first, last)
            try:
                for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns):
                    skip = max(0, first - row)
                    for number, raw in enumerate(batch.slice(skip, last - row - skip).to_pylist(), row + skip + 1):
                        yield self.fields.record({**partition, **raw}, name, f"row {number}")
                    row += len(batch)
                    if row >= last:
                        return
            except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
                raise _damaged(name, error) from None

    def _open(self, name: str) -> pq.ParquetFile:
        shown = shown_name(self.path, name)
        with open_file(self.path, name) as stream:
            refuse_pointer(Path(shown), stream.read(len(GIT_LFS)))
        try:
            return pq.ParquetFile(shown)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(shown, error) from None


def _partition(name: str) -> dict[str, str | None]:
    """The columns in the names of a file's folders, with their values."""
    pairs = [part.split("=", 1) for part in Path(name).parts[:-1] if "=" in part]
    return {unquote(key): None if value == _NO_VALUE else unquote(value) for key, value in pairs}


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
    if codec_of(name):
        return InputError(f"{name}: Parquet files are compressed inside. Decompress this one, or write it again.")
    reason = " ".join(str(error).split())[:200]
    return InputError(
        f"{name}: cannot be read as Parquet ({reason}). Write the file again, or name its format with corpus.format."
    )
