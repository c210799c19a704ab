"""Every stage's work: units, shards, the tokens that go through a model, and what stays on the disk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cluster.settings import PoolSettings
from distill.retrieval.embeddings import PASSAGES_PER_SHARD, QUERIES_PER_SHARD, identity
from distill.settings import EncoderSettings, TeacherSettings
from distill.training.step_time import unique_passages
from generation.queries import place
from generation.query_types import load_types, per_source
from launcher.environment import cores
from launcher.plan.corpus import Collection, Sample, token_counter
from launcher.plan.models import model
from launcher.plan.prompts import prompt_tokens
from launcher.recipe import Recipe

QUERY_TOKENS = 14  # of a synthetic query, special tokens included
QUERY_MB = 1e-4  # of a query on the disk
BYTES_PER_CANDIDATE = 30  # id, row number and score, before compression
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Step:
    """What one stage would do.

    Attributes:
        stage: as the recipe and `--until` name it.
        table: of the workdir that it makes; for training its folder.
        work: who does it, in a few words.
        units: what its shards are cut from: passages, queries, or both; or queries of all steps of training.
        shards: of its table; 0 for training and evaluation.
        megabytes: that stay on the disk.
        model: through which its tokens go on this cluster; empty: none, or a server's.
        tokens: that go through a model.
        length: mean tokens of a text that goes through it at once.
        written: of `tokens`, those that a language model writes one by one, at most.
        on_gpu: whether its workers hold GPUs.
        devices: that one worker holds: GPUs, or a share of this machine's cores. Ranks on CPUs share all of them.
        notes: what else a person wants to know.
    """

    stage: str
    table: str
    work: str
    units: int
    shards: int
    megabytes: float
    model: str = ""
    tokens: float = 0.0
    length: float = 0.0
    written: float = 0.0
    on_gpu: bool = False
    devices: float = 1.0
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
    generation = recipe.generation
    return round(sources(recipe, sample) * per_source(generation, load_types(generation)))


def all_queries(recipe: Recipe, sample: Sample) -> int:
    """Synthetic ones and those of the log."""
    return synthetic_queries(recipe, sample) + sample.logged


def estimate(recipe: Recipe, sample: Sample) -> list[Step]:
    """Upper bounds of every stage's work, in the order of the stages."""
    return [_placed(step, recipe) for step in _steps(recipe, sample)]


def _steps(recipe: Recipe, sample: Sample) -> Iterator[Step]:
    corpus, retrieval = recipe.corpus, recipe.retrieval
    records, queries = sample.records, all_queries(recipe, sample)
    per_query = min(records, retrieval.depth)
    text_mb = records * sample.characters / 1e6
    yield Step("corpus", "passages", corpus.path, records, math.ceil(records / corpus.rows_per_shard), 2 * text_mb)
    if sample.logged:
        shards = math.ceil(sample.logged / corpus.rows_per_shard)
        yield Step("queries", "query_log", "the query log", sample.logged, shards, sample.logged * QUERY_MB)
    yield _queries(recipe, sample)
    for name, encoder in recipe.dense_retrievers().items():
        yield _embeddings("embeddings", f"embeddings/{name}", name, encoder, sample, queries)
    size = queries * per_query * BYTES_PER_CANDIDATE / 1e6
    shards = math.ceil(queries / retrieval.rows_per_shard)
    yield Step("candidates", "candidates", " + ".join(retrieval.retrievers), queries, shards, size)
    for name, teacher in recipe.teachers.items():
        table, shards = f"scores/{name}", math.ceil(queries / teacher.rows_per_shard)
        step = Step("scores", table, f"{name}: {teacher.model or teacher.kind}", queries, shards, size)
        own = own_encoder(recipe, teacher)
        if teacher.kind == "cross_encoder":
            pairs, pair = queries * per_query, _pair_tokens(teacher, sample)
            notes = (f"{pairs:,} pairs of {pair:,.0f} tokens",)
            step = replace(step, model=str(teacher.model), tokens=pairs * pair, length=pair, notes=notes)
        elif own:
            yield _embeddings("scores", f"{table}-vectors", name, own, sample, queries)
        yield step
    length = recipe.lists.length
    shards = math.ceil(queries / recipe.lists.rows_per_shard)
    yield Step("lists", "lists", f"the best {length}", queries, shards, queries * length * 12 / 1e6)
    yield _training(recipe, sample)
    if sample.judged:
        yield _evaluation(recipe, sample.judged)


def own_encoder(recipe: Recipe, teacher: TeacherSettings) -> EncoderSettings | None:
    """The encoder of a bi-encoder that no retriever has, so that all texts go through it for this teacher alone."""
    if teacher.kind != "bi_encoder":
        return None
    encoder = teacher.encoder or recipe.student_encoder()
    there = any(identity(each) == identity(encoder) for each in recipe.dense_retrievers().values())
    return None if there else encoder


def pool_of(recipe: Recipe, step: Step) -> PoolSettings:
    """The pool that a step runs in."""
    name = step.table.partition("/")[2]
    if step.table == "queries":
        return place(recipe.generation)
    if step.stage == "embeddings":
        return recipe.retrieval.retrievers[name].pool
    if step.stage == "scores":
        teacher = recipe.teachers.get(name) or recipe.teachers[name.removesuffix("-vectors")]
        products = teacher.kind == "bi_encoder" and not step.model  # of vectors that are there
        return recipe.cluster.io_pool if products else teacher.pool
    if step.stage == "training":
        return recipe.training.pool
    if step.stage == "evaluation":
        return recipe.evaluation.pool or PoolSettings(workers=1, cpus=cores())  # the driver, on its machine
    return recipe.cluster.io_pool


def _placed(step: Step, recipe: Recipe) -> Step:
    """The step with what a worker of it holds."""
    pool = pool_of(recipe, step)
    if pool.gpus:
        return replace(step, on_gpu=True, devices=pool.gpus)
    share = (pool.cpus or 1) / cores()
    return replace(step, devices=1.0 if step.stage == "training" else min(1.0, share))


def _embeddings(stage: str, table: str, name: str, encoder: EncoderSettings, sample: Sample, queries: int) -> Step:
    """All passages and all queries through an encoder."""
    texts, known = sample.records + queries, model(encoder.model)
    shards = math.ceil(sample.records / PASSAGES_PER_SHARD) + math.ceil(queries / QUERIES_PER_SHARD)
    return Step(
        stage, table, f"{name}: {encoder.model}", texts, shards, texts * (known.hidden if known else 768) * FLOAT / 1e6,
        encoder.model, sample.records * sample.tokens + queries * QUERY_TOKENS, sample.tokens,
    )  # fmt: skip


def _pair_tokens(teacher: TeacherSettings, sample: Sample) -> float:
    """Mean tokens of a query and a passage together, by the teacher's own tokenizer."""
    count, _ = token_counter(teacher.model)
    shown = [count(f"{title} {text}"[: 16 * teacher.max_tokens]) for title, text in sample.texts]
    return sum(min(teacher.max_tokens, each + QUERY_TOKENS) for each in shown) / max(1, len(shown))


def global_batch(recipe: Recipe, sample: Sample) -> Batch:
    """Of training, if no filter takes a query; the passages of a step that differ are encoded once each."""
    training, queries = recipe.training, all_queries(recipe, sample)
    per_step = min(training.queries_per_step, queries)
    lists = max(1, int(queries * (1 - recipe.lists.dev_fraction)))
    steps = max(1, lists // training.queries_per_step) * training.epochs
    slots = per_step * training.list_length
    unique = unique_passages(slots, sample.records)
    return Batch(min(steps, training.max_steps or steps), per_step, unique, slots / max(unique, 1.0))


def _queries(recipe: Recipe, sample: Sample) -> Step:
    generation, queries = recipe.generation, synthetic_queries(recipe, sample)
    shards = math.ceil(sources(recipe, sample) / generation.rows_per_shard)
    step = Step("queries", "queries", str(generation.model or generation.engine), queries, shards, queries * QUERY_MB)
    if generation.engine == "extractive":
        return step
    prompts, written = prompt_tokens(generation, sample), float(queries * generation.max_tokens)
    on_server = generation.engine == "openai"
    notes = (
        f"prompts of {prompts.whole:,.0f} tokens, {prompts.computed:,.0f} of them new after prefix reuse "
        f"({prompts.prefixes:,} prefixes)",
        f"at most {generation.max_tokens} tokens written for each" + (", in the server's time" if on_server else ""),
    )
    return replace(
        step, model="" if on_server else str(generation.model), tokens=queries * prompts.computed + written,
        length=prompts.whole, written=written, notes=notes,
    )  # fmt: skip


def _training(recipe: Recipe, sample: Sample) -> Step:
    batch, known = global_batch(recipe, sample), model(recipe.student.model)
    notes = (
        f"{batch.passages:,.0f} unique passages a step, each listed {batch.repeats:.1f} times"
        + (" (fewer by topic)" if recipe.training.topic_queries > 1 else ""),
    )
    # the model, and per checkpoint weights and two moments
    weights = (known.parameters if known else 110e6) * FLOAT / 1e6
    return Step(
        "training", "training", f"at most {batch.steps:,} steps of {batch.queries:,} queries",
        batch.steps * batch.queries, 0, weights * (1 + 3 * (recipe.training.keep_checkpoints + 1)),
        recipe.student.model, batch.steps * (batch.passages * sample.tokens + batch.queries * QUERY_TOKENS),
        sample.tokens, notes=notes,
    )  # fmt: skip


def _evaluation(recipe: Recipe, judged: Collection) -> Step:
    """Every judged query and every passage, through the base and through the student."""
    texts, pooled = 2 * (judged.queries + judged.passages), recipe.evaluation.pool is not None
    known = model(recipe.student.model)
    vectors = texts * (known.hidden if known else 768) * FLOAT / 1e6
    return Step(
        "evaluation", "evaluation", f"base and student on {judged.queries:,} judged queries", texts, 0,
        vectors if pooled else 2 * judged.queries * recipe.evaluation.depth * BYTES_PER_CANDIDATE / 1e6,
        recipe.student.model, 2 * (judged.passages * judged.tokens + judged.queries * QUERY_TOKENS), judged.tokens,
    )  # fmt: skip
