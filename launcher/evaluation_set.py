"""The judged queries of a run, prepared before the first stage, so that a mistake in them ends the run at once.

The corpus stage gets the ids of the judged passages, and no query is generated for these passages. The judged queries
themselves are left out of the query log.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.errors import InputError
from cluster.machines.private_folder import private_folder
from cluster.tables.storage import Storage
from distill.evaluation import judged
from distill.evaluation.metrics import are_same_words
from distill.evaluation.qrels import Qrels, read_qrels
from distill.settings.evaluation import EvaluationSettings
from generation.documents.chunker import Chunk, Chunker, Chunking
from generation.documents.document import Document, Section

PYDOCS = "pydocs://"


@dataclass(frozen=True)
class EvaluationSet:
    """A BEIR folder, and what its chosen split judges.

    Attributes:
        folder: the folder on this machine.
        passage_ids: ids of the passages that are judged, with any grade.
        queries: id and text of the queries that are judged.
        notes: sentences for the user about what is unusual; none if the run has begun before.
    """

    folder: Path
    passage_ids: frozenset[str]
    queries: dict[str, str]
    notes: tuple[str, ...] = ()


def prepare(storage: Storage, settings: EvaluationSettings, chunking: Chunking | None = None) -> EvaluationSet | None:
    """Prepares the folder that base and student are judged on; for Python documentation the folder is written first.

    A new run reads the whole folder, so that the evaluation cannot fail after hours of work.

    Args:
        storage: of the run.
        settings: which folder, and whether its passages are cut.
        chunking: how they are cut, if `settings.cut` says so.

    Raises:
        InputError: something in the folder is missing or malformed.
    """
    if settings.dataset is None:
        return None
    if settings.dataset.startswith(PYDOCS):
        folder = _write_pydocs(storage, settings)
    else:
        folder = Path(settings.dataset).expanduser()
    notes: list[str] = []
    if not storage.exists("records/plan.json"):
        notes = judged.read(folder, settings.split).notes
    qrels = read_qrels(folder, settings.split)
    passages = frozenset(passage for grades in qrels.values() for passage in grades)
    queries = judged.judged_queries(folder, settings.split, qrels)
    if settings.cut and chunking:
        folder = _write_cut(storage, folder, settings.split, qrels, chunking)
    return EvaluationSet(folder, passages, queries, tuple(notes))


def _write_cut(storage: Storage, folder: Path, split: str, qrels: Qrels, chunking: Chunking) -> Path:
    """Writes the collection with its passages cut, once: each chunk names the passage that it is a part of.

    A passage that is a judged query itself, as in ArguAna, stays whole: it is left out of that query's run, and its
    chunks would not be known as the query.
    """
    chunker = Chunker(chunking)
    cut = (storage.local_path or private_folder()) / "evaluation" / "chunks"
    settings = asdict(chunking)
    del settings["revision"]  # the digest tells its tokenizer
    made_from = json.dumps([str(folder), split, settings, chunker.counter.digest(), "queries whole"])
    note = cut / "made-from.json"
    if note.is_file() and note.read_text(encoding="utf-8") == made_from:
        return cut
    shutil.rmtree(cut, ignore_errors=True)
    (cut / "qrels").mkdir(parents=True)
    queries = judged.judged_queries(folder, split, qrels)
    with (cut / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for _, key, (title, text, _) in judged.passages_of(folder):
            if key in queries and are_same_words(queries[key], text):
                file.write(json.dumps({"_id": key, "title": title, "text": text}, ensure_ascii=False) + "\n")
                continue
            for number, chunk in enumerate(chunks_of(chunker, key, title, text), 1):
                row = {"_id": f"{key}#{number}", **asdict(chunk), judged.PARENT: key}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    lines = (json.dumps({"_id": query, "text": text}, ensure_ascii=False) for query, text in queries.items())
    (cut / "queries.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    rows = (f"{query}\t{key}\t{grade}" for query, grades in qrels.items() for key, grade in grades.items())
    (cut / "qrels" / f"{split}.tsv").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    note.write_text(made_from, encoding="utf-8")
    return cut


def chunks_of(chunker: Chunker, key: str, title: str, text: str) -> list[Chunk]:
    """The pieces of one judged passage, at least one."""
    headings = (title,) if title.strip() else ()
    return chunker.chunks(Document(key, (Section(headings, text),), key)) or [Chunk(title, text)]


def check(settings: EvaluationSettings) -> None:
    """Checks that the folder and the split of a recipe exist, before anything is started or written.

    Raises:
        InputError: one of them does not exist.
    """
    if settings.dataset is None or settings.dataset.startswith(PYDOCS):
        return
    folder = Path(settings.dataset).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"evaluation.dataset: there is no folder {folder}. Expected a BEIR folder (corpus.jsonl, queries.jsonl, "
            "qrels/), pydocs://PACKAGES, or null if you have no judged queries."
        )
    read_qrels(folder, settings.split)


def _write_pydocs(storage: Storage, settings: EvaluationSettings) -> Path:
    """Writes the judged docstrings once: into the workdir, or into a local folder if the workdir is an object store."""
    from generation.pydocs import write_judged

    assert settings.dataset is not None
    root = storage.local_path or private_folder()
    folder = root / "evaluation" / "dataset"
    made_from = json.dumps(settings.model_dump(include={"dataset", "max_queries", "seed"}), sort_keys=True)
    note = folder / "made-from.json"
    if note.is_file() and note.read_text(encoding="utf-8") == made_from:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    write_judged(settings.dataset, folder, max_queries=settings.max_queries or sys.maxsize, seed=settings.seed)
    note.write_text(made_from, encoding="utf-8")
    return folder
