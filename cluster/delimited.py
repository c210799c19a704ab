"""CSV and TSV files: which delimiter and which quoting a file uses, and its rows.

Both are decided from the content. A delimiter is right if it splits the first line into the columns that are looked
for. A quotation mark at the start of a field is either text, as in dumps that quote nothing, or it begins a quoted
field that may go over several lines. So the file is read both ways, and the way in which every record has as many
fields as there are columns is the right one.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from cluster.errors import InputError
from cluster.files.columns import refuse_repeated
from cluster.files.names import plain_name
from cluster.jsonl import Line, read_lines

Quoting = Literal["auto", "double", "none"]
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_EXPECTED = "Expected fields that hold quotes, delimiters or line breaks to be quoted, and quotes in them doubled."
_REMEDY = (
    "Correct the record; or, if no field is quoted and quotes are text, say so (corpus.quoting: none for a corpus)."
)


class Row(NamedTuple):
    """A record of a file.

    Attributes:
        offset: byte at which it begins, as in `Line.offset`.
        line: number of the line at which it begins, from 1.
        cells: its fields.
    """

    offset: int
    line: int
    cells: list[str]


@dataclass(frozen=True)
class Dialect:
    """How a file is written.

    Attributes:
        delimiter: between two fields: one character.
        quoted: whether a quotation mark begins a quoted field; if not, it is text.
        columns: names of the columns.
        has_header: whether the first line holds these names.
        note: what a person should know about how the file is read; empty: nothing.
    """

    delimiter: str
    quoted: bool
    columns: tuple[str, ...]
    has_header: bool = True
    note: str = ""


def find_dialect(
    path: Path,
    advice: str,
    has_columns: Callable[[Sequence[str]], bool],
    *,
    quoting: Quoting = "auto",
    columns: Sequence[str] | None = None,
    most: int | None = None,
) -> Dialect:
    """Finds out how a file is written.

    Args:
        path: the file; the one ending in .tsv is expected to have tabs, any other commas.
        advice: last sentence of the message if the file cannot be read.
        has_columns: whether these are the names that the file should have.
        quoting: "auto": decide it from the content; "double": fields are quoted; "none": quotes are text.
        columns: names of the columns of a file without a header.
        most: records to look at; None: all.

    Returns:
        The dialect; its columns are those of the likeliest delimiter if `has_columns` accepts none.

    Raises:
        InputError: the file cannot be read or is empty, two columns have one name, or a record has too many or too few
            fields whichever way the file is read.
    """
    csv.field_size_limit(sys.maxsize)  # the default refuses fields over 128 KiB
    first = next((line for line in read_lines(path, advice) if not line.is_blank), None)
    if first is None:
        raise InputError(f"{path}: the file is empty. Expected a header line with the names of the columns.")
    if first.text().strip().lower().startswith("sep="):
        raise InputError(f"{first.place}: a note for Excel. Expected the names of the columns. Remove this line.")
    usual = "\t" if plain_name(path.name).endswith(".tsv") else ","
    splits = {one: _split(first, one) for one in sorted(_DELIMITERS, key=lambda one: one != usual)}
    if columns is None:
        right = (one for one, names in splits.items() if has_columns(names))
    else:
        right = (one for one, cells in splits.items() if len(cells) == len(columns))
    delimiter = next(right, None) or max(splits, key=lambda one: len(splits[one]))
    names = tuple(columns or splits[delimiter])
    refuse_repeated(names, first.place)
    found = Dialect(delimiter, quoting != "none", names, columns is None)
    if quoting != "auto" or not (columns or has_columns(names)):
        return found
    raw = first.text().strip().split(delimiter)
    names_are_quoted = columns is None and all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in raw)
    return _Trial(path, advice, found, most).decide(names_are_quoted)


def read_rows(path: Path, dialect: Dialect, advice: str, offset: int = 0, number: int = 1) -> Iterator[Row]:
    """Records of a file without its header, from the one that begins at byte `offset`; empty lines are skipped.

    Args:
        path: the file.
        dialect: how it is written.
        advice: last sentence of the message if it cannot be read.
        offset: byte at which a record begins, as in `Row.offset`.
        number: number of the line at `offset`.

    Raises:
        InputError: the file cannot be read, a line is not UTF-8, or the quotes are malformed.
    """
    lines = (line for line in read_lines(path, advice, offset, number))
    rows = _quoted(lines, dialect.delimiter) if dialect.quoted else _plain(lines, dialect.delimiter)
    yield from islice(rows, int(dialect.has_header and offset == 0), None)


def record_of(row: Row, dialect: Dialect, file: str) -> dict[str, str]:
    """The fields of a row by the names of their columns.

    Raises:
        InputError: there are too few or too many.
    """
    if len(row.cells) != len(dialect.columns):
        raise InputError(f"{file}, line {row.line}: {_wrong_number(len(row.cells), dialect)}. {_EXPECTED} {_REMEDY}")
    return dict(zip(dialect.columns, row.cells, strict=True))


def _wrong_number(cells: int, dialect: Dialect) -> str:
    return f"{cells} fields where the header has {len(dialect.columns)} ({', '.join(dialect.columns)})"


def _split(first: Line, delimiter: str) -> list[str]:
    """The names on a file's first line."""
    try:
        names = next(csv.reader([first.text()], delimiter=delimiter, strict=True), [])
    except csv.Error:  # a quote that the line does not close
        names = first.text().rstrip("\r\n").split(delimiter)
    return [name.strip() for name in names]


def _plain(lines: Iterator[Line], delimiter: str) -> Iterator[Row]:
    for line in lines:
        if text := line.text().rstrip("\r\n"):
            yield Row(line.offset, line.number, text.split(delimiter))


def _quoted(lines: Iterator[Line], delimiter: str) -> Iterator[Row]:
    begin: Line | None = None  # the first line of a record

    def texts() -> Iterator[str]:
        nonlocal begin
        for line in lines:
            begin = begin or line
            yield line.text()

    rows = csv.reader(texts(), delimiter=delimiter, strict=True)
    while True:
        begin = None
        try:
            cells = next(rows, None)
        except csv.Error as error:
            assert begin is not None, "an error is one of a line"
            raise InputError(f"{begin.place}: not CSV ({error}). {_EXPECTED} {_REMEDY}") from None
        if cells is None:
            return
        if cells and begin is not None:
            yield Row(begin.offset, begin.number, cells)


class _Trial:
    """Reads a file both ways: with quotes that begin fields, and with quotes that are text."""

    def __init__(self, path: Path, advice: str, dialect: Dialect, most: int | None) -> None:
        self.path = path
        self.advice = advice
        self.dialect = dialect
        self.most = most
        self.quoted_problem = ""  # the first record that has a wrong number of fields, or wrong quotes
        self.plain_problem = ""  # the same if quotes are text
        self.swallowed: tuple[int, int] | None = None  # first and last line of a record that looks like several
        self._like_rows = 0  # the last lines that each look like a record

    def decide(self, names_are_quoted: bool) -> Dialect:
        """The dialect in which the file is written.

        Args:
            names_are_quoted: whether all names in the header are, so that quotes are no text.

        Raises:
            InputError: the file fits neither way, or it fits both ways and the records differ.
        """
        self._read()
        tabs = self.dialect.delimiter == "\t"
        if not self.quoted_problem:
            if not self.swallowed:
                return replace(self.dialect, quoted=True)
            begin, end = self.swallowed
            one = f"lines {begin} to {end} are one record, since a quoted field goes over them"
            if self.plain_problem and not tabs:
                return replace(self.dialect, quoted=True, note=f"{self.path}: {one}; corpus.quoting says otherwise")
            if tabs and not self.plain_problem and not names_are_quoted:
                return replace(self.dialect, quoted=False, note=f"{self.path}: quotes are text and begin no field")
            raise InputError(
                f"{self.path}, line {begin}: if quotes begin fields, {one}, but each looks like a record of its own. "
                "Say which is right, for a corpus with corpus.quoting: double (it is one record) or none (quotes are "
                "text)."
            )
        if not self.plain_problem and not names_are_quoted:
            return replace(self.dialect, quoted=False, note=f"{self.path}: quotes are text and begin no field")
        other = ""
        if self.plain_problem not in ("", self.quoted_problem):
            other = f" Nor does it fit if quotes are text: {self.plain_problem}."
        raise InputError(f"{self.path}, {self.quoted_problem}. {_EXPECTED}{other} {_REMEDY}")

    def _read(self) -> None:
        texts = self._texts()
        rows = csv.reader(texts, delimiter=self.dialect.delimiter, strict=True)
        end = 0  # last line of the record before
        try:
            for number, row in enumerate(rows):
                begin, end = end + 1, rows.line_num
                if row and len(row) != len(self.dialect.columns):
                    self.quoted_problem = f"line {begin}: {_wrong_number(len(row), self.dialect)}"
                    break
                if begin < end < begin + self._like_rows and not self.swallowed:
                    self.swallowed = (begin, end)
                if number == self.most:
                    return
        except csv.Error as error:
            self.quoted_problem = f"line {end + 1}: not CSV ({error})"
        while not self.plain_problem and next(texts, None) is not None:
            pass

    def _texts(self) -> Iterator[str]:
        """The lines, looked at as if quotes were text."""
        width = len(self.dialect.columns)
        for line in read_lines(self.path, self.advice):
            text = line.text()
            bare = text.rstrip("\r\n")
            cells = bare.count(self.dialect.delimiter) + 1
            self._like_rows = self._like_rows + 1 if cells == width else 0
            if bare and cells != width and not self.plain_problem:
                self.plain_problem = f"line {line.number}: {_wrong_number(cells, self.dialect)}"
            yield text
