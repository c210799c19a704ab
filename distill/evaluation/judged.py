"""Judged collections: a BEIR folder of passages, queries and relevance judgments, read strictly.

A BEIR folder holds `corpus.jsonl` (_id, title, text), `queries.jsonl` (_id, text) and `qrels/<split>.tsv`
(`distill/evaluation/qrels.py`), each compressed or not. Passages with empty text or title are kept, as in published
figures. A passage may name the document that it is a chunk of (`parent_id`); judgements then name chunks or
documents. A judged passage that the corpus lacks can not be found, and counts so, as in trec_eval. Every other
mistake ends with an error that names file and line.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import InputError
from cluster.files.names import find_named
from cluster.jsonl import Line, read_id, read_lines, read_text
from cluster.machines.shared_folder import shared_folder
from cluster.repeated_ids import RepeatedIds
from distill.evaluation.qrels import EXPECTED, Qrels, qrels_file, read_qrels
from distill.evaluation.strings import Strings

CORPUS, QUERIES = "corpus.jsonl", "queries.jsonl"
_MAPPED = "passages.arrow"
_ROWS_PER_BATCH = 16_384
Passage = tuple[str, str, str | None]  # title, text, and the document that it is a chunk of
PARENT = "parent_id"  # field of a chunk in corpus.jsonl
_COLUMNS = pa.schema([(name, pa.string()) for name in ("passage_id", "title", "text", PARENT)])
EXAMPLE = '{"_id": "7", "title": "", "text": "…"}'
CORRECT = "Correct or remove the line."


@dataclass(frozen=True)
class JudgedCollection:
    """A judged collection: queries and judgements in memory, passages in a file that this process maps.

    Attributes:
        name: folder and split, for messages.
        query_ids, queries: the Q judged queries.
        passage_ids, titles, texts: the P passages, all of them.
        qrels: query id → passage id → grade; the grades of unknown passages too, so that they count as unfound.
        unknown: number of judgments whose passage the collection lacks.
        units: id of what is judged, for each of the P passages: its own, or that of the document it is a chunk of.
    """

    name: str
    query_ids: list[str]
    queries: list[str]
    passage_ids: Strings
    titles: Strings
    texts: Strings
    qrels: Qrels
    unknown: int = 0
    units: Strings | None = None

    @property
    def judged_ids(self) -> Strings:
        """For each passage, the id that judgements name: its own, or its document's, of which the best chunk counts."""
        return self.passage_ids if self.units is None else self.units

    def hits_needed(self, most: int) -> int:
        """How many passages a search must return to have `most` documents, however many chunks those have."""
        if self.units is None:
            return most
        counts = np.sort(pc.value_counts(self.units.column).field("counts").to_numpy())
        return min(len(self.units), int(counts[-most:].sum()) + 1)

    @property
    def notes(self) -> list[str]:
        """Sentences for the user about what is unusual."""
        if not self.unknown:
            return []
        total = sum(map(len, self.qrels.values()))
        return [f"{self.name}: {self.unknown} of {total} judgments name passages that the corpus lacks; "
                "they count as not found, as in trec_eval"]  # fmt: skip


def read(folder: str | Path, split: str = "test", max_queries: int | None = None, seed: int = 0) -> JudgedCollection:
    """Reads a BEIR folder.

    Args:
        folder: the folder.
        split: name of the qrels file.
        max_queries: judge on a sample of this many queries, drawn with `seed`.
        seed: seed of the sample.

    Raises:
        InputError: a file is missing or malformed, an id occurs twice, a judged query has no text or does not exist, or
            none of the judged passages does.
    """
    folder = Path(folder)
    qrels = read_qrels(folder, split)
    passages = _passages(folder)
    queries = judged_queries(folder, split, qrels)
    judged = {passage for grades in qrels.values() for passage in grades}
    own, documents = (_occurring(passages[name], judged) for name in ("passage_id", PARENT))
    known = own | documents
    if not known:
        _refuse_unknown(qrels_file(folder, split), "passages", sorted(judged), CORPUS)
    ids = list(qrels)
    if max_queries is not None and max_queries < len(ids):
        chosen = set(random.Random(seed).sample(sorted(ids), max_queries))
        ids = [query for query in ids if query in chosen]
    return JudgedCollection(
        name=f"{folder.name}, {split}",
        query_ids=ids,
        queries=[queries[query] for query in ids],
        passage_ids=Strings(passages["passage_id"]),
        titles=Strings(passages["title"]),
        texts=Strings(passages["text"]),
        qrels={query: qrels[query] for query in ids},
        unknown=sum(passage not in known for query in ids for passage in qrels[query]),
        units=Strings(pc.coalesce(passages[PARENT], passages["passage_id"])) if documents - own else None,
    )


def judged_queries(folder: str | Path, split: str = "test", qrels: Qrels | None = None) -> dict[str, str]:
    """Id and text of every query that the split judges.

    Args:
        folder: BEIR folder.
        split: name of the qrels file.
        qrels: its judgments, if they are read already.

    Raises:
        InputError: a file is missing or malformed, or a judged query has no text or does not exist.
    """
    folder = Path(folder)
    qrels = qrels or read_qrels(folder, split)
    queries = _read_queries(folder)
    _refuse_unknown(qrels_file(folder, split), "queries", sorted(qrels.keys() - queries.keys()), QUERIES)
    if empty := [query for query in qrels if not queries[query].strip()]:
        raise InputError(
            f"{_file(folder, QUERIES)}: {len(empty)} judged queries have no text: {_first_ids(empty)}. Write their "
            "texts, or remove their judgments."
        )
    return {query: queries[query] for query in qrels}


def passages_of(folder: str | Path) -> Iterator[tuple[Line, str, Passage]]:
    """Line, id and content of every passage of a BEIR folder.

    Raises:
        InputError: there is no corpus.jsonl, or a line of it is malformed.
    """
    for line in _lines(_file(Path(folder), CORPUS)):
        record = line.json_object(EXAMPLE)
        title = read_text(record, "title", line.place, CORRECT) if record.get("title") is not None else ""
        parent = record.get(PARENT)
        if parent is not None and not isinstance(parent, str):
            raise InputError(f"{line.place}: `{PARENT}` is no text; expected the id of a document. {CORRECT}")
        passage = (title, read_text(record, "text", line.place, CORRECT), parent)
        yield line, read_id(record, "_id", line.place, CORRECT), passage


def _passages(folder: Path) -> pa.Table:
    """All passages of a folder, mapped from a file of this machine; the first process that asks writes it.

    Raises:
        InputError: as `passages_of`; an id occurs twice, or there is no passage.
    """
    path = _file(folder, CORPUS)
    if not path.is_file():
        next(passages_of(folder))  # says what is wrong with it
    stat = path.stat()

    def write(made: Path) -> None:
        ids = RepeatedIds()
        passages = passages_of(folder)
        with pa.OSFile(str(made / _MAPPED), "wb") as file, pa.ipc.new_file(file, _COLUMNS) as writer:
            while part := list(islice(passages, _ROWS_PER_BATCH)):
                for line, key, _ in part:
                    ids.add(key, line.number)
                columns = zip(*((key, *passage) for _, key, passage in part), strict=True)
                arrays = [pa.array(values, pa.string()) for values in columns]
                writer.write_batch(pa.record_batch(arrays, schema=_COLUMNS))
        if twice := ids.first():
            (_, later), (_, earlier) = twice
            name = next(key for line, key, _ in passages_of(folder) if line.number == later)
            raise InputError(
                f"{path}, line {later}: the id '{name}' occurs twice, the first time in line {earlier}; passage ids "
                "must be unique."
            )
        if not len(ids):
            raise InputError(f"{path}: the file holds no passage.")

    identity = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
    folder_of_machine = shared_folder(f"judged-{hashlib.sha256(identity.encode()).hexdigest()[:16]}", write)
    with pa.memory_map(str(folder_of_machine / _MAPPED)) as file:
        return pa.ipc.open_file(file).read_all()


def _occurring(column: pa.ChunkedArray, names: Set[str]) -> set[str]:
    """Those of some names that a column holds."""
    return set(column.filter(pc.is_in(column, value_set=pa.array(sorted(names), pa.string()))).unique().to_pylist())


def _read_queries(folder: Path) -> dict[str, str]:
    queries: dict[str, str] = {}
    for line in _lines(_file(folder, QUERIES)):
        record = line.json_object('{"_id": "1", "text": "…"}')
        key = read_id(record, "_id", line.place, CORRECT)
        if key in queries:
            raise InputError(f"{line.place}: the id '{key}' occurs twice; query ids must be unique.")
        queries[key] = read_text(record, "text", line.place, CORRECT)
    return queries


def _file(folder: Path, name: str) -> Path:
    """A file of the folder, which may be compressed; if there is none, the path where it was expected."""
    return find_named(folder, name) or folder / name


def _lines(path: Path) -> Iterator[Line]:
    """Lines that are not blank."""
    return (line for line in read_lines(path, EXPECTED) if not line.is_blank)


def _refuse_unknown(path: Path, kind: str, unknown: list[str], file: str) -> None:
    if unknown:
        raise InputError(
            f"{path}: {len(unknown)} judged {kind} are not in {file}: {_first_ids(unknown)}. "
            "Judgments and collection must belong together."
        )


def _first_ids(ids: list[str]) -> str:
    return ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
