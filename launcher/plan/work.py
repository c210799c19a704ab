"""Every stage's work: units, shards, the tokens that go through a model, and what stays on the disk."""

from __future__ import annotations

import math
from dataclasses import dataclass

from distill.embeddings import PASSAGES_PER_SHARD, QUERIES_PER_SHARD
from distill.scaling import unique_passages
from launcher.plan.corpus import Sample, token_counter
from launcher.plan.models import model
from launcher.plan.prompts import prompt_tokens
from launcher.recipe import Recipe

QUERY_TOKENS = 14  # of a synthetic query, special tokens included
BYTES_PER_CANDIDATE = 30  # id, row number and score, before compression
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Step:
    """What one stage would do.

    Attributes:
        stage: as the recipe and `--until` name it.
        table: of the workdir that it makes; for training its folder.
        work: who does it, in a few words.
        units: what its shards are cut from: passages, queries, or queries of all steps of training.
        shards: of its table; 0 for training.
        tokens: that go through a model.
        length: mean tokens of a text that goes through it at once.
        megabytes: that stay on the disk.
        written: of `tokens`, those that a language model writes one by one, at most.
        notes: what else a person wants to know.
    """

    stage: str
    table: str
    work: str
    units: int
    shards: int
    tokens: float
    length: float
    megabytes: float
    written: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """The global batch of a training step: steps in all, queries, unique passages, and how often each is listed."""

    steps: int
    queries: int
    passages: float
    repeats: float


def sources(recipe: Recipe, sample: Sample) -> int:
    """Passages that queries are written for, at most."""
    return min(sample.records, recipe.corpus.max_sources)


def synthetic_queries(recipe: Recipe, sample: Sample) -> int:
    """Queries that are asked for."""
    return sources(recipe, sample) * len(recipe.generation.query_types) * recipe.generation.samples


def estimate(recipe: Recipe, sample: Sample) -> list[Step]:
    """Upper bounds of every stage's work, in the order of the stages."""
    corpus, retrieval = recipe.corpus, recipe.retrieval
    records, queries = sample.records, synthetic_queries(recipe, sample)
    per_query = min(records, retrieval.depth)
    text_mb = records * sample.characters / 1e6
    shards = math.ceil(records / corpus.rows_per_shard)
    steps = [Step("corpus", "passages", corpus.path, records, shards, 0, 0, 2 * text_mb), _queries(recipe, sample)]
    for name, encoder in recipe.dense_retrievers().items():
        tokens = records * sample.tokens + queries * QUERY_TOKENS
        known = model(encoder.model)
        size = (records + queries) * (known.hidden if known else 768) * FLOAT / 1e6
        shards = math.ceil(records / PASSAGES_PER_SHARD) + math.ceil(queries / QUERIES_PER_SHARD)
        table, work = f"embeddings/{name}", f"{name}: {encoder.model}"
        steps.append(Step("embeddings", table, work, records + queries, shards, tokens, sample.tokens, size))
    size = queries * per_query * BYTES_PER_CANDIDATE / 1e6
    shards = math.ceil(queries / retrieval.rows_per_shard)
    work = " + ".join(retrieval.retrievers)
    steps.append(Step("candidates", "candidates", work, queries, shards, 0, 0, size))
    for name, teacher in recipe.teachers.items():
        pairs, pair = queries * per_query, 0.0
        notes: tuple[str, ...] = ()
        if teacher.kind == "cross_encoder":
            count, _ = token_counter(str(teacher.model))
            shown = [count(f"{title} {text}"[: 16 * teacher.max_tokens]) for title, text in sample.texts]
            pair = sum(min(teacher.max_tokens, each + QUERY_TOKENS) for each in shown) / max(1, len(shown))
            notes = (f"{pairs:,} pairs of {pair:,.0f} tokens",)
        shards, work = math.ceil(queries / teacher.rows_per_shard), f"{name}: {teacher.model or teacher.kind}"
        steps.append(
            Step("scores", f"scores/{name}", work, queries, shards, pairs * pair, pair, size, 0.0, notes)
        )  # fmt: skip
    length = recipe.lists.length
    shards = math.ceil(queries / recipe.lists.rows_per_shard)
    steps.append(Step("lists", "lists", f"the best {length}", queries, shards, 0, 0, queries * length * 12 / 1e6))
    steps.append(_training(recipe, sample))
    return steps


def global_batch(recipe: Recipe, sample: Sample) -> Batch:
    """Of training, if no filter takes a query; the passages of a step that differ are encoded once each."""
    training, queries = recipe.training, synthetic_queries(recipe, sample)
    per_step = min(training.queries_per_step, queries)
    lists = max(1, int(queries * (1 - recipe.lists.dev_fraction)))
    steps = max(1, lists // training.queries_per_step) * training.epochs
    slots = per_step * training.list_length
    unique = unique_passages(slots, sample.records)
    return Batch(min(steps, training.max_steps or steps), per_step, unique, slots / max(unique, 1.0))


def _queries(recipe: Recipe, sample: Sample) -> Step:
    generation, queries = recipe.generation, synthetic_queries(recipe, sample)
    shards = math.ceil(sources(recipe, sample) / generation.rows_per_shard)
    size = queries * 1e-4
    if generation.engine == "extractive":
        return Step("queries", "queries", "extractive", queries, shards, 0, 0, size)
    prompts, written = prompt_tokens(generation, sample), float(queries * generation.max_tokens)
    notes = (
        f"prompts of {prompts.whole:,.0f} tokens, {prompts.computed:,.0f} of them new after prefix reuse "
        f"({prompts.prefixes:,} prefixes)",
        f"at most {generation.max_tokens} tokens written for each",
    )
    return Step(
        "queries", "queries", str(generation.model), queries, shards, queries * prompts.computed + written,
        prompts.whole, size, written, notes,
    )  # fmt: skip


def _training(recipe: Recipe, sample: Sample) -> Step:
    batch, known = global_batch(recipe, sample), model(recipe.student.model)
    tokens = batch.steps * (batch.passages * sample.tokens + batch.queries * QUERY_TOKENS)
    work = f"at most {batch.steps:,} steps of {batch.queries:,} queries"
    notes = (
        f"{batch.passages:,.0f} unique passages a step, each listed {batch.repeats:.1f} times"
        + (" (fewer by topic)" if recipe.training.topic_queries > 1 else ""),
    )
    # the model, and per checkpoint weights and two moments
    weights = (known.parameters if known else 110e6) * FLOAT / 1e6
    size = weights * (1 + 3 * (recipe.training.keep_checkpoints + 1))
    return Step(
        "training", "training", work, batch.steps * batch.queries, 0, tokens, sample.tokens, size, 0.0, notes
    )  # fmt: skip
