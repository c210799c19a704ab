"""Reader of CSV and TSV files, whose quoted fields may hold line breaks (`cluster/delimited.py`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.delimited import Dialect, Quoting, find_dialect, read_rows, record_of
from cluster.errors import InputError
from cluster.tables.plan import Shard
from generation.readers.base import Record
from generation.readers.fields import Fields
from generation.readers.files import (
    OLD_PLAN,
    SEEN_BY_ALL,
    ShardCutter,
    checksums,
    corpus_file,
    find_files,
    left_out,
    shown_name,
)

SUFFIXES = (".csv", ".tsv")


@dataclass(frozen=True)
class DelimitedReader:
    """CSV and TSV. A shard is the byte offset and the line number of a record, and how its file is written.

    Attributes:
        path: of the file, or of the folder.
        fields: names of the columns that are read.
        quoting: whether quotes begin fields; "auto": each file shows it.
        columns: names of the columns of files without a header.
    """

    path: Path
    fields: Fields
    quoting: Quoting = "auto"
    columns: tuple[str, ...] | None = None

    def fingerprint(self) -> dict[str, Any]:
        """Sizes and checksums of the files."""
        return checksums(self.path, find_files(self.path, SUFFIXES))

    def notes(self) -> list[str]:
        """Files of the folder that are left out."""
        return left_out(self.path, SUFFIXES)

    def plan(self, rows_per_shard: int, max_rows: int | None) -> list[Shard]:
        """Shards of the records. The files are parsed, since quoted fields may hold line breaks.

        Raises:
            InputError: there is no file, a header lacks a field, a record has too few or too many fields, quotes are
                malformed, or no file holds a record.
        """
        cutter = ShardCutter(rows_per_shard, max_rows)
        for name in find_files(self.path, SUFFIXES):
            dialect = self._dialect(name, cutter.remaining)
            if not cutter.full:
                rows = read_rows(corpus_file(self.path, name), dialect, SEEN_BY_ALL)
                cutter.cut(
                    ({"offset": row.offset, "line": row.line} for row in rows),
                    file=name, delimiter=dialect.delimiter, quoted=dialect.quoted, columns=list(dialect.columns),
                    **({"note": dialect.note} if dialect.note else {}),
                )  # fmt: skip
        return cutter.done(str(self.path))

    def read(self, shard: Shard, start: int, stop: int) -> Iterator[Record]:
        """Records `start` to `stop` of a shard.

        Raises:
            InputError: a line is not UTF-8, quotes are malformed, or a record has too few or too many fields.
        """
        params = shard.params
        if "delimiter" not in params:
            raise InputError(OLD_PLAN)
        name = shown_name(self.path, params["file"])
        dialect = Dialect(params["delimiter"], params["quoted"], tuple(params["columns"]), has_header=False)
        file = corpus_file(self.path, params["file"])
        rows = read_rows(file, dialect, SEEN_BY_ALL, params["offset"], params["line"])
        for row in itertools.islice(rows, start + params["before"], stop + params["before"]):
            yield self.fields.record(record_of(row, dialect, name), name, f"line {row.line}")

    def _dialect(self, name: str, most: int | None) -> Dialect:
        dialect = find_dialect(
            corpus_file(self.path, name),
            SEEN_BY_ALL,
            self.fields.are_in,
            quoting=self.quoting,
            columns=self.columns,
            most=most,
        )
        place = shown_name(self.path, name)
        try:
            self.fields.check(dialect.columns, f"{place}, line 1" if dialect.has_header else "corpus.columns")
        except InputError as error:
            raise InputError(f"{error} {_without_header(dialect.columns)}") from None
        return dialect


def _without_header(columns: Sequence[str]) -> str:
    names = ", ".join(["id", "text", *(f"column{number}" for number in range(3, len(columns) + 1))])
    return f"If the file has no header line, name its {len(columns)} columns, for instance corpus.columns=[{names}]."
