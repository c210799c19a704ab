"""Reader of JSON lines, one object on each line: a file, a folder of files, or the corpus.jsonl of a BEIR folder."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.jsonl import Line, read_lines
from cluster.tables.plan import Shard
from generation.readers.base import Record
from generation.readers.fields import Fields
from generation.readers.files import SEEN_BY_ALL, ShardCutter, checksums, corpus_file, find_files, left_out

SUFFIXES = (".jsonl", ".ndjson")
EXAMPLE = '{"_id": "7", "title": "", "text": "…"}'


@dataclass(frozen=True)
class JsonlReader:
    """JSON lines. A shard is a byte offset and a line number: those of the record before it, or of its first record."""

    path: Path
    fields: Fields
    beside: tuple[
        str, ...
    ] = ()  # files of JSON lines in the folder of a BEIR corpus that are neither corpus nor queries

    def fingerprint(self) -> dict[str, Any]:
        """Sizes and checksums of the files."""
        return checksums(self.path, find_files(self.path, SUFFIXES))

    def notes(self) -> list[str]:
        """Files of the folder that are left out."""
        if self.beside:
            return [f"{self.path} is read, as of a BEIR folder; left out: {', '.join(self.beside)}"]
        return left_out(self.path, SUFFIXES)

    def plan(self, rows_per_shard: int, max_rows: int | None) -> list[Shard]:
        """Shards of the lines that are not blank; nothing is parsed.

        Raises:
            InputError: there is no file, or no file holds a record.
        """
        cutter = ShardCutter(rows_per_shard, max_rows)
        for name in find_files(self.path, SUFFIXES):
            if not cutter.full:
                cutter.cut(({"offset": line.offset, "line": line.number} for line in self._lines(name)), file=name)
        return cutter.done(str(self.path))

    def read(self, shard: Shard, start: int, stop: int) -> Iterator[Record]:
        """Records `start` to `stop` of a shard.

        Raises:
            InputError: a line is not UTF-8, is not a JSON object, or lacks a field.
        """
        params = shard.params
        lines = self._lines(params["file"], params["offset"], params["line"])
        for line in itertools.islice(lines, start + params["before"], stop + params["before"]):
            yield self.fields.record(line.json_object(EXAMPLE), line.file, f"line {line.number}")

    def _lines(self, name: str, offset: int = 0, number: int = 1) -> Iterator[Line]:
        """Lines of a file that are not blank."""
        lines = read_lines(corpus_file(self.path, name), SEEN_BY_ALL, offset, number)
        return (line for line in lines if not line.is_blank)
