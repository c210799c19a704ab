"""A file of ids of passages that queries are to be written for: one a line, or a field of JSONL, CSV or TSV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.delimited import find_dialect, read_rows, record_of
from cluster.errors import InputError
from cluster.files.names import has_ending
from cluster.jsonl import Line, read_id, read_lines

ID_FIELDS = ("_id", "id", "docid", "passage_id")
EXAMPLE = '{"_id": "42"}'
_ADVICE = "Correct corpus.sources.file."


@dataclass(frozen=True)
class Listed:
    """An id of the file, and the number of its line."""

    passage_id: str
    line: int


def read_ids(path: str, id_field: str | None) -> list[Listed]:
    """The ids of a file in its order; an id that comes again is left out.

    Args:
        path: a name that ends in .jsonl, .ndjson, .json, .csv or .tsv, each also compressed; any other is text.
        id_field: of JSONL, CSV and TSV; None: the first of `ID_FIELDS` that the first record has.

    Raises:
        InputError: the file cannot be read, has no id, or a line has none; names file, line and what was expected.
    """
    file = Path(path).expanduser()
    lines = (line for line in read_lines(file, _ADVICE) if not line.is_blank)
    if has_ending(file.name, (".jsonl", ".ndjson", ".json")):
        found = _of_json(lines, id_field)
    elif has_ending(file.name, (".csv", ".tsv")):
        found = _of_table(file, id_field) if next(lines, None) else iter(())
    else:
        found = (Listed(line.text().strip(), line.number) for line in lines)
    listed: dict[str, Listed] = {}
    for one in found:
        listed.setdefault(one.passage_id, one)
    if not listed:
        raise InputError(f"corpus.sources.file: {path} holds no id. Write one on each line, or choose by: random.")
    return list(listed.values())


def _of_json(lines: Iterator[Line], id_field: str | None) -> Iterator[Listed]:
    for line in lines:
        record = line.json_object(EXAMPLE)
        id_field = id_field or next((name for name in ID_FIELDS if name in record), ID_FIELDS[0])
        yield Listed(read_id(record, id_field, line.place, _ADVICE), line.number)


def _of_table(file: Path, id_field: str | None) -> Iterator[Listed]:
    names = (id_field,) if id_field else ID_FIELDS
    dialect = find_dialect(file, _ADVICE, lambda columns: any(name in columns for name in names))
    if not (name := next((name for name in names if name in dialect.columns), None)):
        raise InputError(
            f"{file}, line 1: there is no column {' or '.join(map(repr, names))}; there are "
            f"{', '.join(dialect.columns)}. Set corpus.sources.id_field to the column that holds the ids."
        )
    for row in read_rows(file, dialect, _ADVICE):
        record = record_of(row, dialect, str(file))
        yield Listed(read_id(record, name, f"{file}, line {row.line}", _ADVICE), row.line)
