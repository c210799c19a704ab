"""Reader of JSON lines: one object a line, a file or a folder of files. A BEIR folder's corpus.jsonl is such a file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import InputError
from cluster.tables.plan import Shard
from generation.readers.base import Record
from generation.readers.fields import Fields
from generation.readers.files import BOM, ShardCutter, checksums, decode, find_files, open_file, shown_name

SUFFIXES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class JsonlReader:
    """A shard is a byte offset with its line number, at the record before the shard's first one if there is one."""

    path: Path
    fields: Fields

    def fingerprint(self) -> dict[str, Any]:
        """Sizes and checksums of the files."""
        return checksums(self.path, find_files(self.path, SUFFIXES))

    def plan(self, rows_per_shard: int, max_rows: int | None) -> list[Shard]:
        """Counts lines; blank ones are no records.

        Raises:
            InputError: no file, or no record in any.
        """
        cutter = ShardCutter(rows_per_shard, max_rows)
        for name in find_files(self.path, SUFFIXES):
            if not cutter.full:
                cutter.cut(({"offset": offset, "line": line} for offset, line, _ in self._lines(name)), file=name)
        return cutter.done(str(self.path))

    def read(self, shard: Shard, start: int, stop: int) -> Iterator[Record]:
        """Parses the lines of records `start` to `stop`.

        Raises:
            InputError: a line is not UTF-8, not JSON, no object, or lacks a field.
        """
        params = shard.params
        name = shown_name(self.path, params["file"])
        lines = self._lines(params["file"], params["offset"], params["line"])
        for _, number, line in itertools.islice(lines, start + params["before"], stop + params["before"]):
            yield self.fields.record(parse_object(line, name, number), name, f"line {number}")

    def _lines(self, name: str, offset: int = 0, number: int = 1) -> Iterator[tuple[int, int, bytes]]:
        """Byte offset, line number and content of each line that is not blank."""
        with open_file(self.path, name) as file:
            file.seek(offset)
            for line in file:
                if line.strip() and line.strip() != BOM:
                    yield offset, number, line
                offset += len(line)
                number += 1


def parse_object(line: bytes, file: str, number: int) -> dict[str, Any]:
    """One line of a JSONL file.

    Raises:
        InputError: it is not UTF-8, not JSON, or no object; names file, line and column.
    """
    text = decode(line.removeprefix(BOM) if number == 1 else line, file, number)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{file}, line {number}, column {error.colno}: not JSON ({error.msg}). Expected one JSON object per line, "
            f'such as {{"_id": "7", "title": "", "text": "…"}}. Correct or remove the line.'
        ) from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, very deep nesting
        raise InputError(
            f"{file}, line {number}: cannot be read as JSON ({error}). Correct or remove the line."
        ) from None
    if not isinstance(value, dict):
        raise InputError(
            f"{file}, line {number}: a JSON {type(value).__name__} where an object was expected, "
            f'such as {{"_id": "7", "title": "", "text": "…"}}. Correct or remove the line.'
        )
    return value
