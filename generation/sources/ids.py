"""A file of ids of passages that queries are to be written for: one a line, or a field of JSONL, CSV or TSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import InputError
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
        path: a name that ends in .jsonl, .ndjson, .json, .csv or .tsv, each also with .gz; any other is text.
        id_field: of JSONL, CSV and TSV; None: the first of `ID_FIELDS` that the first record has.

    Raises:
        InputError: the file cannot be read, has no id, or a line has none; names file, line and what was expected.
    """
    file = Path(path).expanduser()
    suffixes = [suffix.lower() for suffix in file.suffixes if suffix.lower() != ".gz"]
    ending = suffixes[-1] if suffixes else ""
    lines = read_lines(file, _ADVICE)
    if ending in (".jsonl", ".ndjson", ".json"):
        found = _of_json(lines, id_field)
    elif ending in (".csv", ".tsv"):
        found = _of_table(lines, id_field, "\t" if ending == ".tsv" else ",")
    else:
        found = (Listed(line.text().strip(), line.number) for line in lines if not line.is_blank)
    listed: dict[str, Listed] = {}
    for one in found:
        listed.setdefault(one.passage_id, one)
    if not listed:
        raise InputError(f"corpus.sources.file: {path} holds no id. Write one on each line, or choose by: random.")
    return list(listed.values())


def _of_json(lines: Iterator[Line], id_field: str | None) -> Iterator[Listed]:
    for line in lines:
        if not line.is_blank:
            record = line.json_object(EXAMPLE)
            id_field = id_field or next((name for name in ID_FIELDS if name in record), ID_FIELDS[0])
            yield Listed(read_id(record, id_field, line.place, _ADVICE), line.number)


def _of_table(lines: Iterator[Line], id_field: str | None, delimiter: str) -> Iterator[Listed]:
    first = next(lines, None)
    if first is None:
        return
    header = next(csv.reader([first.text()], delimiter=delimiter), [])
    names = (id_field,) if id_field else ID_FIELDS
    if not (name := next((name for name in names if name in header), None)):
        raise InputError(
            f"{first.place}: there is no column {' or '.join(map(repr, names))}; there are {', '.join(header)}. "
            "Set corpus.sources.id_field to the column that holds the ids."
        )
    place = header.index(name)
    number = first.number
    reader = csv.reader((line.text() for line in lines), delimiter=delimiter)
    for row in reader:
        number, begun = first.number + reader.line_num, number + 1
        if row:
            where = f"{first.file}, line {begun}"
            yield Listed(read_id({name: row[place] if place < len(row) else None}, name, where, _ADVICE), begun)
