"""Judged collections: a BEIR folder of passages, queries and relevance judgments, read strictly.

A BEIR folder holds `corpus.jsonl` (_id, title, text), `queries.jsonl` (_id, text) and `qrels/<split>.tsv`
(`distill/evaluation/qrels.py`), each compressed or not. Passages with empty text or title are kept, as in published
figures. A passage may name the document that it is a chunk of (`parent_id`); judgements then name chunks or
documents. A judged passage that the corpus lacks can not be found, and counts so, as in trec_eval. Every other
mistake ends with an error that names file and line.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import InputError
from cluster.files.names import find_named
from cluster.jsonl import Line, read_id, read_lines, read_text
from distill.evaluation.qrels import EXPECTED, Qrels, qrels_file, read_qrels

CORPUS, QUERIES = "corpus.jsonl", "queries.jsonl"
Passage = tuple[str, str, str | None]  # title, text, and the document that it is a chunk of
PARENT = "parent_id"  # field of a chunk in corpus.jsonl
EXAMPLE = '{"_id": "7", "title": "", "text": "…"}'
CORRECT = "Correct or remove the line."


@dataclass(frozen=True)
class JudgedCollection:
    """A judged collection in memory.

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
    passage_ids: list[str]
    titles: list[str]
    texts: list[str]
    qrels: Qrels
    unknown: int = 0
    units: list[str] | None = None

    @property
    def judged_ids(self) -> list[str]:
        """For each passage, the id that judgements name: its own, or its document's, of which the best chunk counts."""
        return self.passage_ids if self.units is None else self.units

    def hits_needed(self, most: int) -> int:
        """How many passages a search must return to have `most` documents, however many chunks those have."""
        if self.units is None:
            return most
        counts = Counter(self.units)
        return min(len(self.units), sum(count for _, count in counts.most_common(most)) + 1)

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
    passages = _read_passages(folder)
    queries = judged_queries(folder, split, qrels)
    judged = {passage for grades in qrels.values() for passage in grades}
    parents = {parent for _, _, parent in passages.values() if parent is not None}
    known = passages.keys() | parents
    if not judged & known:
        _refuse_unknown(qrels_file(folder, split), "passages", sorted(judged), CORPUS)
    ids = list(qrels)
    if max_queries is not None and max_queries < len(ids):
        chosen = set(random.Random(seed).sample(sorted(ids), max_queries))
        ids = [query for query in ids if query in chosen]
    return JudgedCollection(
        name=f"{folder.name}, {split}",
        query_ids=ids,
        queries=[queries[query] for query in ids],
        passage_ids=list(passages),
        titles=[title for title, _, _ in passages.values()],
        texts=[text for _, text, _ in passages.values()],
        qrels={query: qrels[query] for query in ids},
        unknown=sum(passage not in known for query in ids for passage in qrels[query]),
        units=_units(passages, qrels) if parents else None,
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


def _units(passages: dict[str, Passage], qrels: Qrels) -> list[str] | None:
    """Ids of documents if judgements name one that is no passage; None: chunks are judged by themselves."""
    judged = {passage for grades in qrels.values() for passage in grades}
    parents = {parent for _, _, parent in passages.values() if parent is not None}
    if not (judged - passages.keys()) & parents:
        return None
    return [key if parent is None else parent for key, (_, _, parent) in passages.items()]


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


def _read_passages(folder: Path) -> dict[str, Passage]:
    passages: dict[str, Passage] = {}
    for line, key, passage in passages_of(folder):
        if key in passages:
            raise InputError(f"{line.place}: the id '{key}' occurs twice; passage ids must be unique.")
        passages[key] = passage
    if not passages:
        raise InputError(f"{_file(folder, CORPUS)}: the file holds no passage.")
    return passages


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
