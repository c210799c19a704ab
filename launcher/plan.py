"""A dry run: what each stage would have to do, measured on a sample of the corpus with the student's own tokenizer.

Nothing is written and no Ray is started. Filters only ever remove queries, so everything from `queries` on is an upper
bound; what the workdir holds already is counted instead of estimated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from cluster.errors import InputError
from cluster.storage import Storage
from cluster.watch.status import status
from distill.embeddings import PASSAGES_PER_SHARD, QUERIES_PER_SHARD
from distill.encoder import resolve_model
from launcher.recipe import Recipe

SAMPLE_RECORDS = 200
CHARACTERS_PER_TOKEN = 4.0  # of English prose, where no tokenizer is at hand
QUERY_TOKENS = 14  # of a synthetic query, special tokens included
BYTES_PER_CANDIDATE = 30  # id, row number and score, before compression


@dataclass(frozen=True)
class Sample:
    """What a look at the corpus tells."""

    records: int
    tokens: float  # mean of a passage, cut as the student cuts it
    characters: float
    with_tokenizer: bool


@dataclass(frozen=True)
class Step:
    """What one stage would do. `tokens` go through a model, `megabytes` stay on the disk."""

    stage: str
    work: str
    units: int
    shards: int
    tokens: float
    megabytes: float


def print_plan(recipe: Recipe, console: Console | None = None) -> None:
    """Prints the dry run of a recipe.

    Raises:
        InputError: a model folder, the corpus or the judged queries are not there.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    recipe.check_inputs()
    sample = look_at(recipe)
    how = "the student's tokenizer" if sample.with_tokenizer else "four characters a token"
    console.print(
        f"{sample.records:,} records, {sample.characters:,.0f} characters and {sample.tokens:,.0f} tokens each "
        f"(on a sample, by {how})"
    )
    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("stage")
    grid.add_column("work")
    for name in ("units", "shards", "tokens", "disk"):
        grid.add_column(name, justify="right")
    steps = estimate(recipe, sample)
    for step in steps:
        disk = f"{step.megabytes:,.1f} MB"
        grid.add_row(step.stage, step.work, f"{step.units:,}", f"{step.shards:,}", _short(step.tokens), disk)
    console.print(grid)
    console.print(f"At most; filters remove queries on the way. Disk in all: {sum(s.megabytes for s in steps):,.0f} MB")
    done = finished(recipe)
    if done:
        console.print(f"Done already in {recipe.workdir}: {', '.join(done)}", markup=False)


def look_at(recipe: Recipe) -> Sample:
    """Counts the records of the corpus and measures the first ones of some shards."""
    from generation.readers import open_reader

    reader = open_reader(recipe.corpus)
    shards = reader.plan(recipe.corpus.rows_per_shard, recipe.corpus.max_passages)
    texts: list[str] = []
    chosen = shards[:: max(1, len(shards) // 4)]
    for shard in chosen:
        take = min(shard.rows, SAMPLE_RECORDS // len(chosen) + 1)
        texts += [f"{record.title} {record.text}".strip() for record in reader.read(shard, 0, take)]
    if not texts:
        raise InputError(f"corpus.path: {recipe.corpus.path} holds no record")
    count, with_tokenizer = _token_counter(recipe)
    tokens = sum(count(text) for text in texts) / len(texts)
    characters = sum(map(len, texts)) / len(texts)
    return Sample(sum(shard.rows for shard in shards), tokens, characters, with_tokenizer)


def _token_counter(recipe: Recipe) -> tuple[Callable[[str], float], bool]:
    """Tokens of a text as the student would see it; an estimate where the tokenizer is not on this machine."""
    most = recipe.student.max_passage_tokens
    file = Path(resolve_model(recipe.student.model)) / "tokenizer.json"
    if not file.is_file():
        return lambda text: min(most, len(text) / CHARACTERS_PER_TOKEN + 2), False
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: min(most, len(tokenizer.encode(text[: 16 * most]).ids)), True


def estimate(recipe: Recipe, sample: Sample) -> list[Step]:
    """Upper bounds of every stage's work."""
    corpus, generation, retrieval = recipe.corpus, recipe.generation, recipe.retrieval
    records = sample.records
    sources = min(records, corpus.max_sources)
    queries = sources * len(generation.query_types) * generation.samples
    per_query = min(records, retrieval.depth)
    text_mb = records * sample.characters / 1e6
    prompt = min(generation.prompt_characters, sample.characters) / CHARACTERS_PER_TOKEN
    written = queries * (prompt + generation.max_tokens) if generation.engine != "extractive" else 0.0
    engine = generation.model or generation.engine
    steps = [
        Step("corpus", corpus.path, records, math.ceil(records / corpus.rows_per_shard), 0, 2 * text_mb),
        Step("queries", engine, queries, math.ceil(sources / generation.rows_per_shard), written, queries * 1e-4),
    ]
    for name, encoder in recipe.dense_retrievers().items():
        tokens = records * sample.tokens + queries * QUERY_TOKENS
        size = (records + queries) * _dimension(encoder.model) * 4 / 1e6
        shards = math.ceil(records / PASSAGES_PER_SHARD) + math.ceil(queries / QUERIES_PER_SHARD)
        steps.append(Step("embeddings", f"{name}: {encoder.model}", records + queries, shards, tokens, size))
    candidates = queries * per_query * BYTES_PER_CANDIDATE / 1e6
    shards = math.ceil(queries / retrieval.rows_per_shard)
    steps.append(Step("candidates", " + ".join(retrieval.retrievers), queries, shards, 0, candidates))
    for name, teacher in recipe.teachers.items():
        pair = min(teacher.max_tokens, sample.tokens + QUERY_TOKENS)
        tokens = queries * per_query * pair if teacher.kind == "cross_encoder" else 0.0
        work = f"{name}: {teacher.model or teacher.kind}"
        steps.append(Step("scores", work, queries, math.ceil(queries / teacher.rows_per_shard), tokens, candidates))
    shards = math.ceil(queries / recipe.lists.rows_per_shard)
    size = queries * recipe.lists.length * 12 / 1e6
    steps.append(Step("lists", f"the best {recipe.lists.length}", queries, shards, 0, size))
    steps.append(_training(recipe, sample, queries))
    return steps


def _training(recipe: Recipe, sample: Sample, queries: int) -> Step:
    """Steps and tokens of training; the passages of a global batch that differ are encoded once each."""
    training = recipe.training
    per_step = min(training.queries_per_step, queries)
    steps = math.ceil(queries * (1 - recipe.lists.dev_fraction) / training.queries_per_step) * training.epochs
    steps = min(steps, training.max_steps or steps)
    slots = per_step * training.list_length
    # Uniform draws of `slots` out of all passages leave this many different ones.
    unique = sample.records * (1 - (1 - 1 / sample.records) ** slots)
    tokens = steps * (unique * sample.tokens + per_step * QUERY_TOKENS)
    work = f"at most {steps:,} steps, {slots / max(unique, 1):.1f} repeats"
    return Step("training", work, steps * per_step, 0, tokens, 2 * _model_megabytes(recipe.student.model))


def _dimension(model: str) -> int:
    """Dimension of a local model's vectors, from its configuration; 768 where it is not on this machine."""
    try:
        config = json.loads((Path(resolve_model(model)) / "config.json").read_text(encoding="utf-8"))
        return int(config["hidden_size"])
    except (OSError, KeyError, ValueError):
        return 768


def _model_megabytes(model: str) -> float:
    folder = Path(resolve_model(model))
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6 if folder.is_dir() else 440.0


def finished(recipe: Recipe) -> list[str]:
    """Tables of the workdir that are complete; looking does not create it."""
    if "://" not in recipe.workdir and not Path(recipe.workdir).expanduser().is_dir():
        return []
    return [one["table"] for one in status(Storage(recipe.workdir)) if one["shards"] == one["shards_done"]]


def _short(number: float) -> str:
    """1,234,567 as 1.2 M; an empty text for nothing."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number:,.0f}" if number else ""
