"""Lists that somebody scored already: JSON lines become the two tables that training reads, with no run before it.

A line is one list: `{"query": "…", "passages": [{"docid": "7", "text": "…", "score": 3.2}, …]}`, optionally with
`query_id`, and with a `title` beside each text. A passage's text may be left out where an earlier line has given it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError

from cluster.errors import InputError
from cluster.jsonl import read_lines
from cluster.schemas import LISTS, PASSAGES
from cluster.tables.storage import Storage
from cluster.tables.table import Table, discard
from cluster.tables.write_table import write_table
from cluster.unicode import is_valid_utf8, valid_utf8
from distill.lists.build import scale_of, scale_scores, split_of
from distill.settings import ListSettings

EXAMPLE = '{"query": "…", "passages": [{"docid": "7", "text": "…", "score": 3.2}]}'
EXPECTED = "Expected JSON lines, or a run's folder."


def _refuse_half_characters(value: Any) -> Any:
    if isinstance(value, str) and not is_valid_utf8(value):
        raise ValueError("half of a character is in it; write the whole character as UTF-8")
    return value


def _replace_half_characters(value: Any) -> Any:
    return valid_utf8(value) if isinstance(value, str) else value


Id = Annotated[str, BeforeValidator(_refuse_half_characters)]
Text = Annotated[str, BeforeValidator(_replace_half_characters)]


class ScoredPassage(BaseModel):
    """One scored passage of a line."""

    model_config = ConfigDict(coerce_numbers_to_str=True)
    docid: Annotated[Id, Field(min_length=1)]
    title: Text = ""
    text: Text | None = None
    score: FiniteFloat


class ScoredLine(BaseModel):
    """One line."""

    model_config = ConfigDict(coerce_numbers_to_str=True)
    query: Annotated[Text, Field(min_length=1)]
    passages: Annotated[list[ScoredPassage], Field(min_length=1)]
    query_id: Id | None = None


@dataclass
class ScoredLists:
    """All lists of a file: passages by id with their row, and for every list its query, rows and raw scores."""

    passages: dict[str, tuple[int, str, str]]  # id → row, title, text
    queries: list[tuple[str, str]]  # id, text
    rows: list[np.ndarray]
    scores: list[np.ndarray]


def write_tables(file: Path, storage: Storage, dev_fraction: float, seed: int = 0) -> None:
    """Writes the tables `passages` and `lists` of a file of given lists, unless they are there from the same file.

    Scores are scaled to 0…1 over the whole file as those of a run are. A share of the queries becomes the dev split.

    Args:
        file: JSON lines, gzipped if its name ends in .gz.
        storage: where training will work.
        dev_fraction: share of queries that judge the student while it learns.
        seed: of the split.

    Raises:
        InputError: a line that is no list, with its number; scores that say nothing; tables made of something else.
    """
    settings = ListSettings(dev_fraction=dev_fraction, seed=seed)
    fingerprint = {"lists": _digest(file), "dev_fraction": dev_fraction, "seed": seed}
    try:
        there = [Table.open(storage, schema.path) for schema in (PASSAGES, LISTS)]
    except KeyError:
        pass
    else:
        if [table.plan.fingerprint for table in there] == [fingerprint, fingerprint]:
            if all(table.complete for table in there):
                return
            discard(storage, PASSAGES.path)  # a file was damaged: both are made anew
            discard(storage, LISTS.path)
            return write_tables(file, storage, dev_fraction, seed)
        raise InputError(f"{storage.url} holds tables made of other lists, or split otherwise. Name another --output.")
    given = read(file)
    try:
        scale = scale_of(given.scores, settings)
    except ValueError as error:
        raise InputError(f"{file}: the scores say nothing: {error}. Expected a teacher's scores.") from None
    passages = (
        {"passage_id": passage, "title": title, "text": text, "is_source": False}
        for passage, (_, title, text) in given.passages.items()
    )
    write_table(storage, PASSAGES.path, PASSAGES, passages, fingerprint)

    def lists() -> Iterator[dict[str, Any]]:
        for (query, text), rows, scores in zip(given.queries, given.rows, given.scores, strict=True):
            order = np.argsort(-scores, kind="stable")
            yield {
                "query_id": query, "query_type": "given", "text": text, "passage_rows": rows[order],
                "scores": scale_scores(scores[order], scale), "left_out_row": None,
                "split": split_of(f"given {text.casefold()}", dev_fraction, seed),
            }  # fmt: skip

    write_table(storage, LISTS.path, LISTS, lists(), fingerprint)


def read(file: Path) -> ScoredLists:
    """Reads and checks every line.

    Raises:
        InputError: the file cannot be read, a line is no list or contradicts an earlier one, or there is no line.
    """
    given = ScoredLists({}, [], [], [])
    seen: set[str] = set()
    for line in read_lines(file, EXPECTED):
        if line.is_blank:
            continue
        where = line.place
        try:
            record = ScoredLine.model_validate(line.json_object(EXAMPLE))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InputError(
                f"{where}: {f'`{place}`: ' if place else ''}{first['msg']}. Expected one list a line, such as {EXAMPLE}"
            ) from None
        rows = [_row(given, passage, where) for passage in record.passages]
        if len(set(rows)) < len(rows):
            raise InputError(f"{where}: a passage stands in the list twice. Keep the one whose score counts.")
        query = record.query_id or f"line-{line.number}"
        if query in seen:
            raise InputError(f"{where}: the query_id '{query}' stands here a second time. Give every list its own.")
        seen.add(query)
        given.queries.append((query, record.query))
        given.rows.append(np.array(rows, dtype=np.int64))
        given.scores.append(np.array([passage.score for passage in record.passages], dtype=np.float64))
    if not given.queries:
        raise InputError(f"{file} holds no list. Expected one list a line, such as {EXAMPLE}")
    return given


def _row(given: ScoredLists, passage: ScoredPassage, where: str) -> int:
    """The row of a passage; the first line that names it gives its text."""
    known = given.passages.get(passage.docid)
    if known is None:
        if passage.text is None:
            raise InputError(
                f"{where}: passage '{passage.docid}' has no text, here or on a line before. Give it at its first place."
            )
        known = given.passages[passage.docid] = (len(given.passages), passage.title, passage.text)
    elif passage.text is not None and (passage.title, passage.text) != known[1:]:
        raise InputError(f"{where}: passage '{passage.docid}' had another title or text before. Which is right?")
    return known[0]


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"--lists {file}: cannot be read ({error.strerror}). {EXPECTED}") from None
