"""Work of every stage: its units, shards, tokens that go through a model, and megabytes on the disk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cluster.schemas import PILOT, PROBES
from distill.retrieval.embeddings import PASSAGES_PER_SHARD, QUERIES_PER_SHARD, identity
from distill.settings.adapting import AdaptingSettings
from distill.settings.encoders import EncoderSettings
from distill.settings.teachers import MODEL_KINDS, TEXT_KINDS, TeacherSettings
from distill.teachers.adapting.job import FOLDER as ADAPTED
from distill.teachers.template import template_of
from distill.training.step_time import unique_passages
from generation.distinct import QUERIES_PER_SHARD as QUERIES_PER_SHARD_OF_DISTINCT
from generation.judging import verdict
from generation.judging.settings import JudgeSettings
from generation.mixture import WHOLE, Section
from generation.query_types import load_types, per_source
from generation.settings import GenerationSettings
from generation.sources.stage import SOURCES_PER_SHARD, asks_for_neighbours, needs_vectors, sample_size
from launcher.plan.corpus import CorpusSample, JudgedCollection, Sources
from launcher.plan.judge import judge_tokens
from launcher.plan.models import model_size
from launcher.plan.placed import with_devices
from launcher.plan.plan_step import PlanStep
from launcher.plan.prompts import prompt_tokens
from launcher.plan.tokenizers import token_counter
from launcher.recipe import Recipe

QUERY_TOKENS = 14  # of a synthetic query, with special tokens
QUERY_MB = 1e-4  # megabytes of a query on the disk
BYTES_PER_CANDIDATE = 30  # of id, row number and score, before compression
FLOAT_BYTES = 4


@dataclass(frozen=True)
class GlobalBatch:
    """The global batch of a training step.

    Attributes:
        steps: number of training steps in all.
        queries: queries of one step.
        passages: expected number of different passages in one step.
        repeats: how many lists of the step hold one passage, on average.
    """

    steps: int
    queries: int
    passages: float
    repeats: float


def source_count(recipe: Recipe, sample: CorpusSample) -> int:
    """The largest number of passages that queries are generated for."""
    if sample.sources:
        return sample.sources.number
    return min(sample.records, recipe.corpus.max_sources)


def synthetic_query_count(recipe: Recipe, sample: CorpusSample) -> int:
    """The number of queries that the generator is asked for."""
    return sum(round(source_count(recipe, sample) * queries_per_source(own)) for own in recipe.sections.values())


def queries_per_source(generation: GenerationSettings) -> float:
    """Queries of a section for each source, on average over all; its share is in the figure."""
    return generation.share * per_source(generation, load_types(generation))


def query_count(recipe: Recipe, sample: CorpusSample) -> int:
    """The number of synthetic queries, queries of the log and judged queries to learn from."""
    return synthetic_query_count(recipe, sample) + sample.logged_queries + sample.judged_queries


def estimate_work(recipe: Recipe, sample: CorpusSample) -> list[PlanStep]:
    """Estimates upper bounds of the work, one step for each table, in the order of the stages."""
    return [with_devices(step, recipe) for step in _steps(recipe, sample)]


def _steps(recipe: Recipe, sample: CorpusSample) -> Iterator[PlanStep]:
    corpus, retrieval = recipe.corpus, recipe.retrieval
    records, queries = sample.records, query_count(recipe, sample)
    per_query = min(records, retrieval.depth)
    text_mb = records * sample.characters / 1e6
    for name, teacher in recipe.teachers.items():
        if teacher.kind in TEXT_KINDS and teacher.probe:
            yield PlanStep("corpus", PROBES.path.format(name=name), f"probe of {teacher.model or name}", 1, 1, 0.0)
    yield PlanStep("corpus", "passages", corpus.path, records, math.ceil(records / corpus.rows_per_shard), 2 * text_mb)
    real = ("query_log", "the query log", sample.logged_queries), ("judged_queries", "to learn", sample.judged_queries)
    for table, what, count in real:
        if count:
            yield PlanStep("queries", table, what, count, math.ceil(count / corpus.rows_per_shard), count * QUERY_MB)
    yield from _sources(recipe, sample)
    for section, generation in recipe.sections.items():
        yield _queries(section, generation, recipe, sample)
    compared = [own for own in recipe.sections.values() if own.distinct_from is not None]
    if compared:
        written = sum(round(source_count(recipe, sample) * queries_per_source(own)) for own in compared)
        megabytes = written * QUERY_MB
        shards = math.ceil(written / QUERIES_PER_SHARD_OF_DISTINCT)
        yield PlanStep("queries", "distinct", "near-duplicates", written, shards, megabytes)
    if judge := recipe.judge:
        yield from _judged(judge, recipe, sample)
    for name, encoder in recipe.dense_retrievers().items():
        yield _embeddings("embeddings", f"embeddings/{name}", name, encoder, sample, queries)
    megabytes = queries * per_query * BYTES_PER_CANDIDATE / 1e6
    shards = math.ceil(queries / retrieval.rows_per_shard)
    yield PlanStep("candidates", "candidates", " + ".join(retrieval.retrievers), queries, shards, megabytes)
    yield from _scores(recipe, sample, queries, per_query, megabytes)
    length = recipe.lists.length
    shards = math.ceil(queries / recipe.lists.rows_per_shard)
    yield PlanStep("lists", "lists", f"the best {length}", queries, shards, queries * length * 12 / 1e6)
    yield _training(recipe, sample)
    if sample.judged:
        yield _evaluation(recipe, sample.judged)


def _scores(recipe: Recipe, sample: CorpusSample, queries: int, per_query: int, megabytes: float) -> Iterator[PlanStep]:
    """The steps of all teachers, each of which scores `per_query` candidates of every query."""
    for name, teacher in recipe.scoring_teachers().items():
        if recipe.teachers[name].kind == "adapted":
            yield _adapting(name, recipe.teachers[name].adapting, teacher, sample, queries, per_query)
        table, shards = f"scores/{name}", math.ceil(queries / teacher.rows_per_shard)
        step = PlanStep("scores", table, f"{name}: {teacher.model or teacher.kind}", queries, shards, megabytes)
        own = own_encoder(recipe, teacher)
        if teacher.kind in MODEL_KINDS:
            pairs, pair_tokens = queries * per_query, _pair_tokens(teacher, sample)
            notes = (f"{pairs:,} pairs of {pair_tokens:,.0f} tokens",)
            tokens = pairs * pair_tokens
            step = replace(step, model=str(teacher.model), tokens=tokens, length=pair_tokens, notes=notes)
        elif own:
            yield _embeddings("scores", f"{table}-vectors", name, own, sample, queries)
        yield step


def own_encoder(recipe: Recipe, teacher: TeacherSettings) -> EncoderSettings | None:
    """The encoder of a bi-encoder teacher if no retriever uses the same one; it then encodes all texts itself.

    None for other teachers, and for a teacher that reads the vectors of a retriever.
    """
    if teacher.kind != "bi_encoder":
        return None
    encoder = teacher.encoder or recipe.student_encoder()
    encoders = recipe.dense_retrievers().values()
    is_shared = any(identity(retriever) == identity(encoder) for retriever in encoders)
    return None if is_shared else encoder


def _embeddings(
    stage: str, table: str, name: str, encoder: EncoderSettings, sample: CorpusSample, queries: int
) -> PlanStep:
    """The step that encodes all passages and all queries."""
    texts, size = sample.records + queries, model_size(encoder.model)
    megabytes = texts * (size.hidden if size else 768) * FLOAT_BYTES / 1e6
    tokens = sample.records * sample.tokens + queries * QUERY_TOKENS
    shards = math.ceil(sample.records / PASSAGES_PER_SHARD) + math.ceil(queries / QUERIES_PER_SHARD)
    work = f"{name}: {encoder.model}"
    return PlanStep(stage, table, work, texts, shards, megabytes, encoder.model, tokens, sample.tokens)


def _pair_tokens(teacher: TeacherSettings, sample: CorpusSample) -> float:
    """Mean tokens of a query and a passage together, by the teacher's tokenizer."""
    count, _ = token_counter(teacher.model)
    template = template_of(teacher)
    around = QUERY_TOKENS + (count("".join(template.pieces)) if template else 0)
    lengths = [count(f"{title} {text}"[: 16 * teacher.max_tokens]) for title, text in sample.texts]
    return sum(min(teacher.max_tokens, length + around) for length in lengths) / max(1, len(lengths))


def global_batch(recipe: Recipe, sample: CorpusSample) -> GlobalBatch:
    """The global batch of training, if no filter removes a query; a step encodes each different passage once."""
    training, queries = recipe.training, query_count(recipe, sample)
    per_step = min(training.queries_per_step, queries)
    real = sample.logged_queries + sample.judged_queries
    in_epoch = synthetic_query_count(recipe, sample) + training.query_log_weight * real
    lists = max(1, int(in_epoch * (1 - recipe.lists.dev_fraction)))
    steps = max(1, lists // training.queries_per_step) * training.epochs
    slots = per_step * training.list_length
    unique = unique_passages(slots, sample.records)
    return GlobalBatch(min(steps, training.max_steps or steps), per_step, unique, slots / max(unique, 1.0))


def _sources(recipe: Recipe, sample: CorpusSample) -> Iterator[PlanStep]:
    """The steps that choose passages, where the random sample of the corpus is not enough."""
    asking = recipe.asking
    if sample_size(recipe.corpus, asking) is not None:
        return
    sources = source_count(recipe, sample)
    if asking.budget and asking.budget.in_hours:
        sources = max(sources, min(sample.records, recipe.corpus.max_sources))
    needs = needs_vectors(recipe.corpus, asking)
    notes = ("the passages are embedded before this, and not again after it",) if needs else ()
    yield PlanStep(
        "queries", "chosen", f"by {recipe.corpus.sources.by}", sample.records, 1, sources * 2e-5, notes=notes
    )
    texts = 2 if asks_for_neighbours(load_types(asking)) else 1
    megabytes = texts * sources * sample.characters / 1e6
    work = "texts and neighbours" if texts == 2 else "texts"
    yield PlanStep("queries", "sources", work, sources, math.ceil(sources / SOURCES_PER_SHARD), megabytes)
    if asking.budget and asking.budget.in_hours:
        tried = min(asking.budget.trial_sources, sources)
        sample = replace(sample, sources=Sources(tried, "the trial of the engine"))
        step = _queries(WHOLE, asking, recipe, sample)
        yield replace(step, table=PILOT.path, work=f"trial of {step.work}", shards=1, notes=())


def _queries(section: Section, generation: GenerationSettings, recipe: Recipe, sample: CorpusSample) -> PlanStep:
    queries = round(source_count(recipe, sample) * queries_per_source(generation))
    shards = math.ceil(source_count(recipe, sample) / generation.rows_per_shard)
    why = (f"{sample.sources.number:,} sources: {sample.sources.why}",) if sample.sources else ()
    step = PlanStep(
        "queries", section.path, str(generation.model or generation.engine), queries, shards, queries * QUERY_MB,
        notes=why,
    )  # fmt: skip
    if generation.engine == "extractive":
        return step
    prompts, written = prompt_tokens(generation, sample), float(queries * generation.max_tokens)
    on_server = generation.engine == "openai"
    notes = (
        *why,
        f"prompts of {prompts.whole:,.0f} tokens, {prompts.computed:,.0f} of them new after prefix reuse "
        f"({prompts.prefixes:,} prefixes)",
        f"at most {generation.max_tokens} tokens generated for each" + (", by the server" if on_server else ""),
    )
    return replace(
        step, model="" if on_server else str(generation.model), tokens=queries * prompts.computed + written,
        length=prompts.whole, written=written, notes=notes,
    )  # fmt: skip


def _judged(judge: JudgeSettings, recipe: Recipe, sample: CorpusSample) -> Iterator[PlanStep]:
    """The steps that grade the queries and drop the lowest; others go through them without grades."""
    sources, queries = source_count(recipe, sample), synthetic_query_count(recipe, sample)
    per_source = sum(queries_per_source(own) for section, own in recipe.sections.items() if own.judge)
    judged = round(sources * per_source)
    prompts = judge_tokens(judge, sample, per_source)
    notes = (
        f"{judged:,} queries, {prompts.criteria} times each in a prompt of {prompts.whole:,.0f} tokens, "
        f"{prompts.computed / prompts.criteria:,.0f} of them new after prefix reuse",
    )
    shards, megabytes = math.ceil(queries / judge.rows_per_shard), queries * QUERY_MB
    yield PlanStep(
        "grades", "grades", f"judge: {judge.model}", queries, shards, megabytes, judge.model,
        judged * prompts.computed, prompts.whole, notes=notes,
    )  # fmt: skip
    rule = f"the lowest {judge.drop_share:.0%} go" if judge.threshold == "auto" else f"from grade {judge.threshold:g}"
    shards = math.ceil(queries / verdict.QUERIES_PER_SHARD)
    yield PlanStep("approved", "approved", rule, queries, shards, megabytes)


def _adapting(
    name: str, adapt: AdaptingSettings, teacher: TeacherSettings, sample: CorpusSample, queries: int, per_query: int
) -> PlanStep:
    """The step that fine-tunes a teacher and judges it. A backward pass costs as much as two forward passes."""
    used, held_out = min(queries, adapt.queries), adapt.held_out_fraction
    judged = min(round(used * held_out), adapt.held_out_queries)
    lists = max(1, round(used * (1 - held_out)))
    per_step = min(adapt.queries_per_step, lists)
    steps = adapt.epochs * (lists // per_step)
    steps = min(steps, adapt.max_steps or steps)
    pair_tokens, size = _pair_tokens(teacher, sample), model_size(str(teacher.model))
    pairs = steps * per_step * adapt.list_length
    weights = (size.parameters if size else 110e6) * FLOAT_BYTES / 1e6
    return PlanStep(
        "scores", ADAPTED.format(name=name), f"{name}: {teacher.model} is fine-tuned", steps * per_step, 0, 4 * weights,
        str(teacher.model), (3 * pairs + judged * per_query) * pair_tokens, pair_tokens,
        notes=(f"{steps:,} steps of {per_step:,} lists; judged on {judged:,} queries of held-out sources",),
    )  # fmt: skip


def _training(recipe: Recipe, sample: CorpusSample) -> PlanStep:
    batch, size = global_batch(recipe, sample), model_size(recipe.student.model)
    notes = (
        f"{batch.passages:,.0f} unique passages a step, each listed {batch.repeats:.1f} times"
        + (" (fewer by topic)" if recipe.training.topic_queries > 1 else ""),
    )
    # The folder holds the model, and for each checkpoint the weights and two moments.
    weights = (size.parameters if size else 110e6) * FLOAT_BYTES / 1e6
    return PlanStep(
        "training", "training", f"at most {batch.steps:,} steps of {batch.queries:,} queries",
        batch.steps * batch.queries, 0, weights * (1 + 3 * (recipe.training.keep_checkpoints + 1)),
        recipe.student.model, batch.steps * (batch.passages * sample.tokens + batch.queries * QUERY_TOKENS),
        sample.tokens, notes=notes,
    )  # fmt: skip


def _evaluation(recipe: Recipe, judged: JudgedCollection) -> PlanStep:
    """The step that encodes every judged query and every passage, with the base and with the student."""
    texts, pooled = 2 * (judged.queries + judged.passages), recipe.evaluation.pool is not None
    size = model_size(recipe.student.model)
    vectors = texts * (size.hidden if size else 768) * FLOAT_BYTES / 1e6
    return PlanStep(
        "evaluation", "evaluation", f"base and student on {judged.queries:,} judged queries", texts, 0,
        vectors if pooled else 2 * judged.queries * recipe.evaluation.depth * BYTES_PER_CANDIDATE / 1e6,
        recipe.student.model, 2 * (judged.passages * judged.tokens + judged.queries * QUERY_TOKENS), judged.tokens,
    )  # fmt: skip
