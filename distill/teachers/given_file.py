"""A file of scores that were made elsewhere, read strictly: every error names the file and the line.

A line or row is one score, with the query's id, its text, or both:

    {"query_id": "42:question:0", "passage_id": "7", "score": 3.2}
    {"query": "why does compost smell", "docid": "7", "score": 3.2}

or, in JSON lines and Parquet, all scores of a query:

    {"query": "why does compost smell", "passages": [{"docid": "7", "score": 3.2}, …]}

The path may be a folder of such files. JSON lines, CSV and TSV may be compressed.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from cluster.delimited import find_dialect, read_rows, record_of
from cluster.errors import InputError
from cluster.files.columns import refuse_repeated
from cluster.files.folder import list_files
from cluster.files.names import codec_of, plain_name
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
        file: that holds it.
        line: number of the line or row in its file, from 1.
    """

    query_id: str | None
    query: str | None
    passage_id: str
    score: float
    file: str
    line: int


class Places:
    """Numbers for the lines of several files, so that a score remembers its place with one number."""

    def __init__(self) -> None:
        self._files: list[str] = []
        self._starts: list[int] = []  # the number before the first line of each file
        self._last = 0

    def number(self, score: GivenScore) -> int:
        """The number of a score's line. Scores come in the order of the files."""
        if not self._files or self._files[-1] != score.file:
            self._files.append(score.file)
            self._starts.append(self._last)
        self._last = self._starts[-1] + score.line
        return self._last

    def place(self, number: int, beside: int | None = None) -> str:
        """File and line of a number; the line alone if `beside` is the number of another one in the same file."""
        index = bisect_left(self._starts, number) - 1
        line = f"line {number - self._starts[index]}"
        same = beside is not None and bisect_left(self._starts, beside) - 1 == index
        return line if same else f"{self._files[index]}, {line}"


def same_text(text: str) -> str:
    """A text of which two are equal if they are the same but for case, white space and Unicode's forms (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def digest(path: str) -> str:
    """Checksum of the content.

    Raises:
        InputError: the file cannot be read.
    """
    total = hashlib.sha256()
    try:
        for file in files_of(path):
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). {ADVICE}") from None
    return total.hexdigest()


def files_of(path: str) -> list[Path]:
    """The files of scores: the file itself, or those of a folder in order.

    Raises:
        InputError: there is none.
    """
    if Path(path).is_file():
        return [Path(path)]
    names = list_files(Path(path), _READERS).names if Path(path).is_dir() else []
    if not names:
        raise InputError(
            f"{path} is not a file, nor a folder of files that end in {', '.join(_READERS)}. {ADVICE} Every machine of "
            "the cluster must see it under this path."
        )
    return [Path(path, name) for name in names]


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
    for file in files_of(path):
        kind = Path(plain_name(file.name)).suffix
        if kind not in _READERS or (kind == ".parquet" and codec_of(file.name)):
            raise InputError(
                f"{file}: expected a name that ends in {', '.join(_READERS)}; all but .parquet also with "
                ".gz, .bz2, .xz or .zst."
            )
        for line, record in _READERS[kind](file):
            place = f"{file}, {'row' if kind == '.parquet' else 'line'} {line}"
            yield from _scores(record, place, str(file), line)


def _scores(record: Mapping[str, Any], place: str, file: str, line: int) -> Iterator[GivenScore]:
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
        yield GivenScore(query_id, query, passage_id, _number(entry.get("score"), passage_id, place), file, line)


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
            refuse_repeated(table.schema_arrow.names, str(file))
            columns = [name for name in _COLUMNS if name in table.schema_arrow.names]
            for batch in table.iter_batches(_BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: cannot be read as Parquet ({error}). {ADVICE}") from None


def _separated(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    dialect = find_dialect(file, ADVICE, _are_scores)
    for row in read_rows(file, dialect, ADVICE):
        yield row.line, record_of(row, dialect, str(file))


def _are_scores(names: Collection[str]) -> bool:
    return "score" in names and any(name in names for name in ("passage_id", "docid"))


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Mapping[str, Any]]]]] = {
    ".jsonl": _json_lines,
    ".csv": _separated,
    ".tsv": _separated,
    ".parquet": _parquet,
}
