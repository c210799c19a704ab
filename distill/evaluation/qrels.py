"""Relevance judgments, read strictly: `qrels/<split>.tsv` of a BEIR folder, in the layout of BEIR or of TREC.

BEIR writes a header, then query id, passage id and grade between tabs. TREC writes no header, then query id, an unused
column, passage id and grade between white space. A grade is a whole number; as trec_eval has it, a passage is relevant
if its grade is above 0, and one without a grade is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cluster.errors import InputError
from cluster.files.names import find_named, has_ending, plain_name
from cluster.jsonl import Line, read_lines

Qrels = dict[str, dict[str, int]]
EXPECTED = "Expected a BEIR folder: corpus.jsonl, queries.jsonl, qrels/<split>.tsv."
_BEIR, _TREC = 3, 4  # columns
_ENDING = ".tsv"


def read_qrels(folder: str | Path, split: str = "test") -> Qrels:
    """Judgments of a BEIR folder: query id → passage id → grade. The same line twice is one judgment.

    Raises:
        InputError: there is no such file, a line is malformed, two lines grade a pair differently, or there is no
            judgment.
    """
    path = qrels_file(folder, split)
    qrels: Qrels = {}
    for line, query, passage, grade in _judgments(path):
        if qrels.setdefault(query, {}).setdefault(passage, grade) != grade:
            first = next(line for line, *pair in _judgments(path) if pair[:2] == [query, passage])
            raise InputError(
                f"{line.place}: query '{query}' and passage '{passage}' have the grade {grade} here and "
                f"{qrels[query][passage]} in line {first.number}. Keep the line that is right."
            )
    if not qrels:
        raise InputError(f"{path}: the file holds no judgment.")
    return qrels


def qrels_file(folder: str | Path, split: str) -> Path:
    """The file of a split, which may be compressed.

    Raises:
        InputError: there is none; names the splits that there are.
    """
    qrels = Path(folder) / "qrels"
    if path := find_named(qrels, split + _ENDING):
        return path
    files = [file.name for file in qrels.iterdir() if not file.name.startswith(".")] if qrels.is_dir() else []
    splits = sorted(plain_name(name).removesuffix(_ENDING) for name in files if has_ending(name, (_ENDING,)))
    hint = f"There are the splits {', '.join(splits)}." if splits else EXPECTED
    raise InputError(f"{qrels / (split + _ENDING)}: there is no such file. {hint}")


def _judgments(path: Path) -> Iterator[tuple[Line, str, str, int]]:
    """Line, query id, passage id and grade."""
    is_first = True
    for line in read_lines(path, EXPECTED):
        if line.is_blank:
            continue
        text = line.text().rstrip("\r\n")
        cells = text.split("\t")
        if len(cells) != _BEIR and len(text.split()) == _TREC:
            cells = text.split()
        is_header, is_first = is_first and _number(cells[-1]) is None, False
        if is_header:
            continue
        number = _number(cells[-1])
        if len(cells) not in (_BEIR, _TREC) or number is None:
            raise InputError(
                f"{line.place}: expected query id, passage id and a whole number, separated by tabs, or the four "
                f"columns of TREC; found {text[:80]!r}."
            )
        if not number.is_integer():
            raise InputError(
                f"{line.place}: the grade is {cells[-1]}. Expected a whole number, as trec_eval does. Multiply all "
                "grades, such as 0.5 and 1 by 2."
            )
        yield line, cells[0], cells[-2], int(number)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
