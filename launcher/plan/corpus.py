"""Sizes of a plan's inputs: how many records, and how many tokens each has by the student's tokenizer, on a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cluster.errors import InputError
from cluster.files.names import find_named
from cluster.jsonl import read_lines
from distill.encoders.loading import resolve_model
from distill.encoders.texts import passage_text
from distill.evaluation.judged import CORPUS, passages_of
from distill.evaluation.qrels import read_qrels
from launcher.recipe import Recipe

SAMPLE_RECORDS = 200
CHARACTERS_PER_TOKEN = 4.0  # of English prose; used if this machine does not have the tokenizer


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
        judged: sizes of the judged collection; None if the recipe names none.
        sources: that queries are written for; None: as many as `corpus.max_sources`.
    """

    records: int
    tokens: float
    characters: float
    with_tokenizer: bool
    texts: tuple[tuple[str, str], ...] = ()
    logged_queries: int = 0
    judged: JudgedCollection | None = None
    sources: Sources | None = None


def sample_corpus(recipe: Recipe) -> CorpusSample:
    """Counts the records of the corpus and measures the first records of some shards; likewise the judged collection.

    Raises:
        InputError: the corpus or the judged collection does not exist, cannot be read, or is empty.
    """
    from generation.query_log import files_of
    from generation.readers.open_reader import open_reader

    reader = open_reader(recipe.corpus)
    shards = reader.plan(recipe.corpus.rows_per_shard, recipe.corpus.max_passages)
    texts: list[tuple[str, str]] = []
    sampled_shards = shards[:: max(1, len(shards) // 4)]
    for shard in sampled_shards:
        rows = min(shard.rows, SAMPLE_RECORDS // len(sampled_shards) + 1)
        texts += [(record.title, record.text) for record in reader.read(shard, 0, rows)]
    if not texts:
        raise InputError(f"corpus.path: {recipe.corpus.path} holds no record")
    passages = [f"{title} {text}".strip() for title, text in texts]
    tokens, with_tokenizer = _mean_tokens(recipe, passages)
    characters = sum(map(len, passages)) / len(passages)
    records = sum(shard.rows for shard in shards)
    logged = 0
    if log := recipe.corpus.query_log:
        logged = sum(_count_lines(Path(log, name)) for name in files_of(log))
    return CorpusSample(records, tokens, characters, with_tokenizer, tuple(texts), logged, _sample_judged(recipe))


def _sample_judged(recipe: Recipe) -> JudgedCollection | None:
    from generation import pydocs

    settings = recipe.evaluation
    if settings.dataset is None:
        return None
    if settings.dataset.startswith(pydocs.PREFIX):
        packages = pydocs.parse_packages(settings.dataset)
        bodies = [doc.body for _, docs in pydocs.collect(packages) for doc in docs]
        queries, passages, texts = len(pydocs.judged(packages)), len(bodies), bodies[:: max(1, len(bodies) // 200)]
    else:
        folder = Path(settings.dataset).expanduser()
        queries = len(read_qrels(folder, settings.split))
        texts = [passage_text(title, text) for _, _, title, text in islice(passages_of(folder), SAMPLE_RECORDS)]
        passages = _count_lines(find_named(folder, CORPUS) or folder / CORPUS)
    return JudgedCollection(min(queries, settings.max_queries or queries), passages, _mean_tokens(recipe, texts)[0])


def _mean_tokens(recipe: Recipe, texts: list[str]) -> tuple[float, bool]:
    """Mean tokens of a passage, truncated to the student's limit, and whether its own tokenizer counted them."""
    count, with_tokenizer = token_counter(recipe.student.model)
    limit = recipe.student.max_passage_tokens
    return sum(min(limit, count(text[: 16 * limit])) for text in texts) / max(1, len(texts)), with_tokenizer


def _count_lines(path: Path) -> int:
    return sum(1 for _ in read_lines(path, "Correct the path in the recipe."))


def token_counter(model: str | None) -> tuple[Callable[[str], float], bool]:
    """A function that counts the tokens of a text, and whether it uses the model's tokenizer; if not, it estimates."""
    file = tokenizer_file(model) if model else None
    if file is None:
        return lambda text: len(text) / CHARACTERS_PER_TOKEN + 2, False
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text).ids), True


def tokenizer_file(model: str) -> Path | None:
    """The path of `tokenizer.json` in a local folder, a packaged model, or the hub's cache on this machine."""
    return model_file(model, "tokenizer.json")


def model_file(model: str, name: str) -> Path | None:
    """The path of a model's file on this machine; None if it is not here. The network is not used."""
    from huggingface_hub import try_to_load_from_cache

    path = Path(model).expanduser()
    if path.is_file():
        return None  # a GGUF file, which has everything in itself
    path = path if path.is_dir() else Path(resolve_model(model))
    if path.is_dir():
        for folder in (path, path / "0_Transformer"):
            if (folder / name).is_file():
                return folder / name
        return None
    try:
        cached = try_to_load_from_cache(str(path), name)
    except ValueError:  # the hub has no such names
        return None
    return Path(cached) if isinstance(cached, str) else None
