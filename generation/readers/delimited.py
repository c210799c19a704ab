"""Reader of CSV and TSV files with a header line; quoted fields may hold line breaks."""

from __future__ import annotations

import csv
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import InputError
from cluster.jsonl import read_lines
from cluster.tables.plan import Shard
from generation.readers.base import Record
from generation.readers.fields import Fields
from generation.readers.files import SEEN_BY_ALL, ShardCutter, checksums, corpus_file, find_files, shown_name

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


@dataclass(frozen=True)
class DelimitedReader:
    """CSV and TSV. A shard is the byte offset and the line number of a record; every shard reads the header again."""

    path: Path
    fields: Fields

    def fingerprint(self) -> dict[str, Any]:
        """Sizes and checksums of the files."""
        return checksums(self.path, find_files(self.path, SUFFIXES))

    def plan(self, rows_per_shard: int, max_rows: int | None) -> list[Shard]:
        """Shards of the records. The files are parsed once, since quoted fields may hold line breaks.

        Raises:
            InputError: there is no file, a header lacks a field, quotes are malformed, or no file holds a record.
        """
        cutter = ShardCutter(rows_per_shard, max_rows)
        for name in find_files(self.path, SUFFIXES):
            header = self._header(name)
            self.fields.check(header, f"{shown_name(self.path, name)}, line 1")
            if not cutter.full:
                rows = itertools.islice(self._rows(name, 0, 1), 1, None)
                cutter.cut(({"offset": offset, "line": line} for offset, line, _ in rows), file=name)
        return cutter.done(str(self.path))

    def read(self, shard: Shard, start: int, stop: int) -> Iterator[Record]:
        """Records `start` to `stop` of a shard.

        Raises:
            InputError: a line is not UTF-8, quotes are malformed, or a record has too few or too many fields.
        """
        params = shard.params
        name = shown_name(self.path, params["file"])
        header = self._header(params["file"])
        rows = self._rows(params["file"], params["offset"], params["line"])
        for _, number, row in itertools.islice(rows, start + params["before"], stop + params["before"]):
            if len(row) != len(header):
                raise InputError(
                    f"{name}, line {number}: {len(row)} fields where the header has {len(header)} "
                    f"({', '.join(header)}). Correct the record; quote fields that hold delimiters or line breaks."
                )
            yield self.fields.record(dict(zip(header, row, strict=True)), name, f"line {number}")

    def _header(self, name: str) -> list[str]:
        first = next(self._rows(name, 0, 1), None)
        if first is None:
            raise InputError(
                f"{shown_name(self.path, name)}: the file is empty. Expected a header line with field names."
            )
        return [field.strip() for field in first[2]]

    def _rows(self, name: str, offset: int, number: int) -> Iterator[tuple[int, int, list[str]]]:
        """Byte offset, line number and fields of each record; blank lines are skipped."""
        shown = shown_name(self.path, name)
        csv.field_size_limit(sys.maxsize)  # the default refuses fields over 128 KiB
        end = (offset, number)

        def texts() -> Iterator[str]:
            nonlocal end
            for line in read_lines(corpus_file(self.path, name), SEEN_BY_ALL, offset, number):
                text = line.text()
                end = (line.end, line.number + 1)
                yield text

        rows = csv.reader(texts(), delimiter=self._delimiter(name), strict=True)
        while True:
            begin = end
            try:
                row = next(rows, None)
            except csv.Error as error:
                raise InputError(
                    f"{shown}, line {begin[1]}: not CSV ({error}). Expected fields that hold quotes, delimiters or "
                    f"line breaks to be quoted, and quotes in them doubled. Correct the record."
                ) from None
            if row is None:
                return
            if row:
                yield *begin, row

    def _delimiter(self, name: str) -> str:
        return "\t" if (name or self.path.name).removesuffix(".gz").endswith(".tsv") else ","
