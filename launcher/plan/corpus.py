"""Sizes of a plan's inputs: how many records, and how many tokens each has by the student's tokenizer, on a sample."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cluster.errors import InputError
from cluster.files.names import find_named
from cluster.jsonl import read_lines
from distill.encoders.texts import passage_text
from distill.evaluation.judged import CORPUS, passages_of
from distill.evaluation.qrels import read_qrels
from generation.documents.chunker import Chunker
from generation.documents.reader import DocumentReader
from launcher.chunking import chunking_of
from launcher.evaluation_set import chunks_of
from launcher.plan.tokenizers import token_counter
from launcher.recipe import Recipe

SAMPLE_RECORDS = 200


@dataclass(frozen=True)
class JudgedCollection:
    """The judged collection: the numbers of its queries and passages, and the mean tokens of a passage."""

    queries: int
    passages: int
    tokens: float


@dataclass(frozen=True)
class Sources:
    """How many passages queries are written for, at most, and why so many."""

    number: int
    why: str


@dataclass(frozen=True)
class CorpusSample:
    """The sizes of a corpus, measured on some of its records.

    Attributes:
        records: number of records of the whole corpus.
        tokens: mean tokens of a passage, truncated to the student's limit.
        characters: mean characters of title and text.
        with_tokenizer: whether the student's own tokenizer counted the tokens.
        texts: (title, text) of the sampled passages.
        logged_queries: number of lines of the query log.
        judged_queries: number of judged queries to learn from.
        judged: sizes of the judged collection; None if the recipe names none.
        sources: that queries are written for; None: as many as `corpus.max_sources`.
        documents: number of documents that are cut into these records; None: records are what the corpus holds.
        unread: share of the passages whose end lies beyond the student's limit.
        notes: sentences about what the corpus holds and is not read.
    """

    records: int
    tokens: float
    characters: float
    with_tokenizer: bool
    texts: tuple[tuple[str, str], ...] = ()
    logged_queries: int = 0
    judged_queries: int = 0
    judged: JudgedCollection | None = None
    sources: Sources | None = None
    documents: int | None = None
    unread: float = 0.0
    notes: tuple[str, ...] = ()


def sample_corpus(recipe: Recipe) -> CorpusSample:
    """Counts the records of the corpus and measures the first records of some shards; likewise the judged collection.

    Raises:
        InputError: the corpus or the judged collection does not exist, cannot be read, or is empty.
    """
    from generation.documents.sample import sample_documents
    from generation.query_log import files_of
    from generation.records import open_corpus

    reader = open_corpus(recipe.corpus)
    shards = reader.plan(recipe.corpus.rows_per_shard, recipe.corpus.max_passages)
    records = sum(shard.rows for shard in shards)
    documents = None
    texts: list[tuple[str, str]] = []
    if chunking := chunking_of(recipe):
        chunks, read = sample_documents(reader, shards, chunking)
        texts = [(chunk.title, chunk.text) for chunk in chunks]
        documents, records = records, round(records * len(chunks) / max(1, read))
    elif not isinstance(reader, DocumentReader):
        sampled_shards = shards[:: max(1, len(shards) // 4)]
        for shard in sampled_shards:
            rows = min(shard.rows, SAMPLE_RECORDS // len(sampled_shards) + 1)
            texts += [(record.title, record.text) for record in reader.read(shard, 0, rows)]
    if not texts:
        raise InputError(f"corpus.path: {recipe.corpus.path} holds no record")
    passages = [f"{title} {text}".strip() for title, text in texts]
    tokens, with_tokenizer = _mean_tokens(recipe, passages)
    unread = _unread(recipe, passages)
    characters = sum(map(len, passages)) / len(passages)
    logged = 0
    if log := recipe.corpus.query_log:
        logged = sum(_count_lines(Path(log, name)) for name in files_of(log))
    learnt = recipe.corpus.judged_queries
    labelled = len(read_qrels(Path(learnt.dataset).expanduser(), learnt.split)) if learnt else 0
    return CorpusSample(
        records, tokens, characters, with_tokenizer, tuple(texts), logged, labelled, _sample_judged(recipe),
        documents=documents, unread=unread, notes=tuple(reader.notes()),
    )  # fmt: skip


def _sample_judged(recipe: Recipe) -> JudgedCollection | None:
    from generation import pydocs

    settings = recipe.evaluation
    if settings.dataset is None:
        return None
    if settings.dataset.startswith(pydocs.PREFIX):
        packages = pydocs.parse_packages(settings.dataset)
        bodies = [doc.body for _, docs in pydocs.collect(packages) for doc in docs]
        queries, passages = len(pydocs.judged(packages)), len(bodies)
        sampled = [("", "", body) for body in bodies[:: max(1, len(bodies) // SAMPLE_RECORDS)]]
    else:
        folder = Path(settings.dataset).expanduser()
        queries = len(read_qrels(folder, settings.split))
        sampled = [(key, title, text) for _, key, (title, text, _) in islice(passages_of(folder), SAMPLE_RECORDS)]
        passages = _count_lines(find_named(folder, CORPUS) or folder / CORPUS)
    if settings.cut and (chunking := chunking_of(recipe)):
        chunker, whole = Chunker(chunking), len(sampled)
        sampled = [(key, one.title, one.text) for key, *rest in sampled for one in chunks_of(chunker, key, *rest)]
        passages = round(passages * len(sampled) / max(1, whole))
    texts = [passage_text(title, text) for _, title, text in sampled]
    return JudgedCollection(min(queries, settings.max_queries or queries), passages, _mean_tokens(recipe, texts)[0])


def _mean_tokens(recipe: Recipe, texts: list[str]) -> tuple[float, bool]:
    """Mean tokens of a passage, truncated to the student's limit, and whether its own tokenizer counted them."""
    count, with_tokenizer = token_counter(recipe.student.model)
    limit = recipe.student.max_passage_tokens
    return sum(min(limit, count(text[: 16 * limit])) for text in texts) / max(1, len(texts)), with_tokenizer


def _unread(recipe: Recipe, texts: list[str]) -> float:
    """Share of the passages with more tokens than the student reads."""
    count, _ = token_counter(recipe.student.model)
    limit = recipe.student.max_passage_tokens
    return sum(count(text[: 16 * limit]) > limit for text in texts) / max(1, len(texts))


def _count_lines(path: Path) -> int:
    return sum(1 for _ in read_lines(path, "Correct the path in the recipe."))
