"""A look at the corpus and at the judged queries: how many records, and how long by the student's own tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cluster.errors import InputError
from cluster.jsonl import read_lines
from distill.encoders.loading import resolve_model
from distill.encoders.texts import passage_text
from distill.evaluation.judged import passages_of, read_qrels
from launcher.recipe import Recipe

SAMPLE_RECORDS = 200
CHARACTERS_PER_TOKEN = 4.0  # of English prose, where no tokenizer is at hand


@dataclass(frozen=True)
class Collection:
    """What base and student would be judged on: queries, passages, and mean tokens of one of those."""

    queries: int
    passages: int
    tokens: float


@dataclass(frozen=True)
class Sample:
    """What a look at the corpus tells.

    Attributes:
        records: of the whole corpus.
        tokens: mean of a passage, cut as the student cuts it.
        characters: mean of title and text.
        with_tokenizer: whether the student's own tokenizer counted.
        texts: (title, text) of the sampled passages.
        logged: lines of the query log.
        judged: the judged collection; None where the recipe names none.
    """

    records: int
    tokens: float
    characters: float
    with_tokenizer: bool
    texts: tuple[tuple[str, str], ...] = ()
    logged: int = 0
    judged: Collection | None = None


def look_at(recipe: Recipe) -> Sample:
    """Counts the records of the corpus and measures the first ones of some shards; the judged collection likewise.

    Raises:
        InputError: the corpus or the judged collection is not there, cannot be read, or is empty.
    """
    from generation.readers.open_reader import open_reader

    reader = open_reader(recipe.corpus)
    shards = reader.plan(recipe.corpus.rows_per_shard, recipe.corpus.max_passages)
    texts: list[tuple[str, str]] = []
    chosen = shards[:: max(1, len(shards) // 4)]
    for shard in chosen:
        take = min(shard.rows, SAMPLE_RECORDS // len(chosen) + 1)
        texts += [(record.title, record.text) for record in reader.read(shard, 0, take)]
    if not texts:
        raise InputError(f"corpus.path: {recipe.corpus.path} holds no record")
    joined = [f"{title} {text}".strip() for title, text in texts]
    tokens, with_tokenizer = _mean_tokens(recipe, joined)
    characters = sum(map(len, joined)) / len(joined)
    records = sum(shard.rows for shard in shards)
    logged = _lines(Path(recipe.corpus.query_log)) if recipe.corpus.query_log else 0
    return Sample(records, tokens, characters, with_tokenizer, tuple(texts), logged, _look_at_judged(recipe))


def _look_at_judged(recipe: Recipe) -> Collection | None:
    from generation import pydocs

    settings = recipe.evaluation
    if settings.dataset is None:
        return None
    if settings.dataset.startswith(pydocs.PREFIX):
        packages = pydocs.parse_packages(settings.dataset)
        found = [doc.body for _, docs in pydocs.collect(packages) for doc in docs]
        queries, passages, texts = len(pydocs.judged(packages)), len(found), found[:: max(1, len(found) // 200)]
    else:
        folder = Path(settings.dataset).expanduser()
        queries = len(read_qrels(folder, settings.split))
        texts = [passage_text(title, text) for _, _, title, text in islice(passages_of(folder), SAMPLE_RECORDS)]
        passages = _lines(folder / "corpus.jsonl")
    return Collection(min(queries, settings.max_queries or queries), passages, _mean_tokens(recipe, texts)[0])


def _mean_tokens(recipe: Recipe, texts: list[str]) -> tuple[float, bool]:
    """Tokens of a passage as the student cuts it, and whether its own tokenizer counted."""
    count, with_tokenizer = token_counter(recipe.student.model)
    most = recipe.student.max_passage_tokens
    return sum(min(most, count(text[: 16 * most])) for text in texts) / max(1, len(texts)), with_tokenizer


def _lines(path: Path) -> int:
    return sum(1 for _ in read_lines(path, "Correct the path in the recipe."))


def token_counter(model: str | None) -> tuple[Callable[[str], float], bool]:
    """Tokens of a text by a model's tokenizer; an estimate where that is not on this machine, and which of the two."""
    file = tokenizer_file(model) if model else None
    if file is None:
        return lambda text: len(text) / CHARACTERS_PER_TOKEN + 2, False
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text).ids), True


def tokenizer_file(model: str) -> Path | None:
    """`tokenizer.json` of a local folder, of a packaged model, or of the hub's cache on this machine."""
    return model_file(model, "tokenizer.json")


def model_file(model: str, name: str) -> Path | None:
    """A file of a model as this machine has it, without asking the network."""
    from huggingface_hub import try_to_load_from_cache

    path = Path(resolve_model(model))
    if path.is_dir():
        for folder in (path, path / "0_Transformer"):
            if (folder / name).is_file():
                return folder / name
        return None
    try:
        found = try_to_load_from_cache(str(path), name)
    except ValueError:  # no name of the hub
        return None
    return Path(found) if isinstance(found, str) else None
