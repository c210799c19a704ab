"""A file of lists that were scored elsewhere: its JSON lines become the two tables that training reads.

Each line is one list: `{"query": "…", "passages": [{"docid": "7", "text": "…", "score": 3.2}, …]}`. It may have a
`query_id`, and each passage a `title`. A passage needs its text only in the first list that names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError

from cluster.errors import InputError
from cluster.files.folder import list_files
from cluster.jsonl import Line, read_lines
from cluster.schemas import LISTS, PASSAGES
from cluster.tables.storage import Storage
from cluster.tables.table import Table, discard
from cluster.tables.write_table import write_table
from cluster.unicode import is_valid_utf8, valid_utf8
from distill.lists.build import Scale, scale_of, scale_scores, split_of
from distill.settings.lists import ListSettings

EXAMPLE = '{"query": "…", "passages": [{"docid": "7", "text": "…", "score": 3.2}]}'
EXPECTED = "Expected JSON lines, a folder of such files, or a run's folder."
ENDINGS = (".jsonl", ".ndjson")


def _refuse_half_characters(value: Any) -> Any:
    if isinstance(value, str) and not is_valid_utf8(value):
        raise ValueError("half of a character is in it; write the whole character as UTF-8")
    return value


def _replace_half_characters(value: Any) -> Any:
    return valid_utf8(value) if isinstance(value, str) else value


Id = Annotated[str, BeforeValidator(_refuse_half_characters)]
Text = Annotated[str, BeforeValidator(_replace_half_characters)]


class ScoredPassage(BaseModel):
    """A passage of a list, with its score by a teacher."""

    model_config = ConfigDict(coerce_numbers_to_str=True)
    docid: Annotated[Id, Field(min_length=1)]
    title: Text = ""
    text: Text | None = None
    score: FiniteFloat


class ScoredList(BaseModel):
    """A query with its scored passages: one line of the file."""

    model_config = ConfigDict(coerce_numbers_to_str=True)
    query: Annotated[Text, Field(min_length=1)]
    passages: Annotated[list[ScoredPassage], Field(min_length=1)]
    query_id: Id | None = None


@dataclass
class ScoredFile:
    """Content of a file: its passages, and for each list the query, passage rows and scores.

    Attributes:
        passages: passage id → row in the passages table, title, text.
        queries: id and text of each list's query.
        rows: `(n,) int64` passage rows of each list.
        scores: `(n,) float64` raw scores of each list.
    """

    passages: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    queries: list[tuple[str, str]] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)


def write_tables(file: Path, storage: Storage, dev_fraction: float, seed: int = 0) -> None:
    """Writes the tables `passages` and `lists` of a file, unless they are complete and come from the same content.

    Scores are scaled to 0…1 over the whole file, as the scores of a run are. A share of the queries becomes the dev
    split.

    Args:
        file: JSON lines, compressed or not; or a folder of such files.
        storage: workdir of the training.
        dev_fraction: share of queries in the dev split.
        seed: seed of the split.

    Raises:
        InputError: a line is no list; names its number. Or all scores are equal, or the storage holds other tables.
    """
    fingerprint = {"lists": _digest(file), "dev_fraction": dev_fraction, "seed": seed}
    if _are_complete(storage, fingerprint):
        return
    settings = ListSettings(dev_fraction=dev_fraction, seed=seed)
    content = read(file)
    try:
        scale = scale_of(content.scores, settings)
    except ValueError as error:
        raise InputError(f"{file}: the scores do not differ: {error}. Expected a teacher's scores.") from None
    write_table(storage, PASSAGES.path, PASSAGES, _passage_rows(content), fingerprint)
    write_table(storage, LISTS.path, LISTS, _list_rows(content, scale, settings), fingerprint)


def _are_complete(storage: Storage, fingerprint: dict[str, Any]) -> bool:
    """Whether both tables can be used; discards them if a data file is damaged.

    Raises:
        InputError: the tables have another fingerprint.
    """
    try:
        tables = [Table.open(storage, schema.path) for schema in (PASSAGES, LISTS)]
    except KeyError:
        return False
    if any(table.plan.fingerprint != fingerprint for table in tables):
        raise InputError(
            f"{storage.url} holds tables that were made of other lists, or with another split. Name another --output."
        )
    if all(table.complete for table in tables):
        return True
    for table in tables:
        discard(storage, table.path)
    return False


def _passage_rows(content: ScoredFile) -> Iterator[dict[str, Any]]:
    """Rows of PASSAGES."""
    for passage, (_, title, text) in content.passages.items():
        yield {"passage_id": passage, "title": title, "text": text, "is_source": False}


def _list_rows(content: ScoredFile, scale: Scale, settings: ListSettings) -> Iterator[dict[str, Any]]:
    """Rows of LISTS, with scaled scores in descending order."""
    for (query, text), rows, scores in zip(content.queries, content.rows, content.scores, strict=True):
        order = np.argsort(-scores, kind="stable")
        yield {
            "query_id": query, "query_type": "given", "text": text, "passage_rows": rows[order],
            "scores": scale_scores(scores[order], scale), "dev_rows": [], "dev_scores": [],
            "split": split_of(f"given {text.casefold()}", settings.dev_fraction, settings.seed),
        }  # fmt: skip


def read(file: Path) -> ScoredFile:
    """Reads and checks every line.

    Raises:
        InputError: the file cannot be read, a line is no list or contradicts an earlier line, or there is no list.
    """
    content = ScoredFile()
    query_ids: set[str] = set()
    for line in _lines(file):
        scored_list = _parse(line)
        rows = [_row(content, passage, line.place) for passage in scored_list.passages]
        if len(set(rows)) < len(rows):
            raise InputError(f"{line.place}: a passage occurs twice in the list. Keep it with the score that counts.")
        query = scored_list.query_id or _name_of(line, file)
        if query in query_ids:
            raise InputError(f"{line.place}: the query_id '{query}' occurs twice. Every list needs its own.")
        query_ids.add(query)
        content.queries.append((query, scored_list.query))
        content.rows.append(np.array(rows, dtype=np.int64))
        content.scores.append(np.array([passage.score for passage in scored_list.passages], dtype=np.float64))
    if not content.queries:
        raise InputError(f"{file} holds no list. Expected one list on each line, such as {EXAMPLE}")
    return content


def files_of(file: Path) -> list[Path]:
    """The files of a folder, in order; or the file itself."""
    return [file / name for name in list_files(file, ENDINGS).names] if file.is_dir() else [file]


def _lines(file: Path) -> Iterator[Line]:
    """The lines of all files that are not blank."""
    for one in files_of(file):
        yield from (line for line in read_lines(one, EXPECTED) if not line.is_blank)


def _name_of(line: Line, file: Path) -> str:
    """The id of a list without one: its line, and in a folder its file."""
    inner = Path(line.file).relative_to(file).as_posix() if file.is_dir() else ""
    return f"{inner}-line-{line.number}".removeprefix("-")


def _parse(line: Line) -> ScoredList:
    try:
        return ScoredList.model_validate(line.json_object(EXAMPLE))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{line.place}: {f'`{name}`: ' if name else ''}{first['msg']}. "
            f"Expected one list on each line, such as {EXAMPLE}"
        ) from None


def _row(content: ScoredFile, passage: ScoredPassage, place: str) -> int:
    """Row of a passage; the first list that names the passage gives its title and text."""
    known = content.passages.get(passage.docid)
    if known is None:
        if passage.text is None:
            raise InputError(
                f"{place}: passage '{passage.docid}' has no text, and no earlier line gives it. "
                "Add the text where the passage is first named."
            )
        known = content.passages[passage.docid] = (len(content.passages), passage.title, passage.text)
    elif passage.text is not None and (passage.title, passage.text) != known[1:]:
        raise InputError(
            f"{place}: passage '{passage.docid}' had another title or text on an earlier line. Correct one of them."
        )
    return known[0]


def _digest(file: Path) -> str:
    try:
        digests = [_digest_of(one) for one in files_of(file)]
    except OSError as error:
        raise InputError(f"--lists {file}: cannot be read ({error.strerror}). {EXPECTED}") from None
    return digests[0] if not file.is_dir() else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _digest_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
