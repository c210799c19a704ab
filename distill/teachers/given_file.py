"""A file of scores that were made elsewhere, read strictly: every error names the file and the line.

A line or row is one score, with the query's id, its text, or both:

    {"query_id": "42:question:0", "passage_id": "7", "score": 3.2}
    {"query": "why does compost smell", "docid": "7", "score": 3.2}

or, in JSON lines and Parquet, all scores of a query:

    {"query": "why does compost smell", "passages": [{"docid": "7", "score": 3.2}, …]}
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import math
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from cluster.errors import InputError
from cluster.jsonl import read_id, read_lines, read_text

EXAMPLE = '{"query_id": "42:question:0", "passage_id": "7", "score": 3.2}'
ADVICE = f"Expected scores such as {EXAMPLE}; `query` instead of `query_id` names a query by its text."
CHECKED = 1000  # scores that are read before a run
_COLUMNS = ("query_id", "query", "passage_id", "docid", "score", "passages")
_BATCH_ROWS = 10_000


class GivenScore(NamedTuple):
    """One score of a file.

    Attributes:
        query_id: id of the query; None if the file does not name it.
        query: text of the query as `same_text` writes it; None if the file does not name it.
        passage_id: id of the passage.
        score: a finite number.
        line: number of the line or row, from 1.
    """

    query_id: str | None
    query: str | None
    passage_id: str
    score: float
    line: int


def same_text(text: str) -> str:
    """A text of which two are equal if they are the same but for case, white space and Unicode's forms (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def digest(path: str) -> str:
    """Checksum of the content.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). {ADVICE}") from None


def check(path: str) -> None:
    """Reads the first scores of a file.

    Raises:
        InputError: as `read`, or the file holds no score.
    """
    if not list(islice(read(path), CHECKED)):
        raise InputError(f"{path} holds no score. {ADVICE}")


def read(path: str) -> Iterator[GivenScore]:
    """All scores of a file, in its order.

    Raises:
        InputError: the file does not exist or is of another kind, or a line is no score; names file and line.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{path} is not a file. {ADVICE} Every machine of the cluster must see it under this path.")
    suffix = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    if suffix not in _READERS or (suffix == ".parquet" and file.suffix == ".gz"):
        raise InputError(f"{path}: expected a name that ends in {', '.join(_READERS)}; all but .parquet also with .gz.")
    for line, record in _READERS[suffix](file):
        yield from _scores(record, f"{path}, {'row' if suffix == '.parquet' else 'line'} {line}", line)


def _scores(record: Mapping[str, Any], place: str, line: int) -> Iterator[GivenScore]:
    query_id = None if record.get("query_id") in (None, "") else read_id(record, "query_id", place, ADVICE)
    query = None if record.get("query") is None else same_text(read_text(record, "query", place, ADVICE)) or None
    if query_id is None and query is None:
        raise InputError(f"{place}: there is neither a query_id nor a query. {ADVICE}")
    passages = record.get("passages")
    if passages is not None and not (isinstance(passages, list) and all(isinstance(one, dict) for one in passages)):
        raise InputError(
            f'{place}: field \'passages\' is no list of objects. Expected [{{"docid": "7", "score": 3.2}}].'
        )
    for entry in [record] if passages is None else passages:
        name = "docid" if entry.get("passage_id") is None and "docid" in entry else "passage_id"
        passage_id = read_id(entry, name, place, ADVICE)
        yield GivenScore(query_id, query, passage_id, _number(entry.get("score"), passage_id, place), line)


def _number(value: Any, passage_id: str, place: str) -> float:
    try:
        number = math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"{place}: the score of passage '{passage_id}' is {value!r}. Expected a finite number. Leave a score out "
            "that there is not; the teacher's field `missing` says what that means."
        )
    return number


def _json_lines(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line in read_lines(file, ADVICE):
        if not line.is_blank:
            yield line.number, line.json_object(EXAMPLE)


def _parquet(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as table:
            columns = [name for name in _COLUMNS if name in table.schema_arrow.names]
            for batch in table.iter_batches(_BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: cannot be read as Parquet ({error}). {ADVICE}") from None


def _separated(separator: str) -> Callable[[Path], Iterator[tuple[int, Mapping[str, Any]]]]:
    def lines(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
        rows = None
        try:
            with (
                gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened,
                io.TextIOWrapper(opened, encoding="utf-8-sig", newline="") as stream,
            ):
                rows = csv.DictReader(stream, delimiter=separator, strict=True)
                for row in rows:
                    if None in row or None in row.values():
                        raise InputError(
                            f"{file}, line {rows.line_num}: expected {len(rows.fieldnames or ())} fields, as the first "
                            f"line names: {', '.join(rows.fieldnames or ())}"
                        )
                    yield rows.line_num, row
        except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
            where = f"{file}, after line {rows.line_num}" if rows else str(file)
            raise InputError(
                f"{where}: cannot be read ({error}). Expected UTF-8 text with a header. {ADVICE}"
            ) from None

    return lines


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Mapping[str, Any]]]]] = {
    ".jsonl": _json_lines,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": _parquet,
}
