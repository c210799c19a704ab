"""Queries: an engine writes some of every type for every source passage; each planned one is kept or counted as a drop.

A unit is one source × type × sample; weights say how many of them there are. What an engine cannot write, and why, is
its answer's `reason`; duplicates within a source and texts of a wrong length are found here, for all engines alike.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cluster.errors import InputError, RunError
from cluster.schemas import QUERIES
from cluster.settings import PoolSettings
from cluster.tables.dropped import Dropped
from cluster.tables.plan_shards import plan_shards
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from generation.cleaning.words import words
from generation.engines import style
from generation.engines.base import Answer, Engine, Request, SecondPassage
from generation.language.names import ENGLISH
from generation.mixture import WHOLE, Section, in_section
from generation.prompting import template_digest
from generation.query_plan import units_per_row
from generation.query_types import QueryType, load_types, units_of
from generation.settings import GenerationSettings
from generation.special_tokens import passages_with_names
from generation.type_figures import PASSAGE_CUT, kept, lost

if TYPE_CHECKING:
    from cluster.run import Run

# What says for which passages an engine writes is part of the table SOURCES.
_WHICH = {"budget", "neighbours"}
# Where and how fast an engine runs, and where files lie, not what it writes: a run may be resumed with other values.
_PLACEMENT = {
    "pool", "rows_per_shard", "concurrency", "tensor_parallel", "types_folder", "examples_file", "timeout_s",
    "patience_s", "requests_per_minute", "tokens_per_minute",
}  # fmt: skip
_OF_SECTION = {"share"}  # the arc says more
_LATER = {"near_duplicates", "judge"}  # decided when all queries are written
PLACEMENT_ARGS = {"gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "enforce_eager"}


def build(
    run: Run,
    generation: GenerationSettings,
    passages: Table,
    section: Section = WHOLE,
    sources: Table | None = None,
    most: int | None = None,
    language: str = ENGLISH,
) -> Table:
    """Writes the synthetic queries of a section of the recipe.

    Args:
        run: the run.
        generation: the engine, and what it is asked for.
        passages: PASSAGES.
        section: its place in the recipe: for which sources it writes, and which table.
        sources: SOURCES; None: queries are written for the rows of PASSAGES where `is_source` is true.
        most: only so many of SOURCES are used, from the first on.
        language: of the passages, a code, for extraction.

    Returns:
        QUERIES, in the order of the sources.

    Raises:
        InputError: the engine's model or server cannot be used as the recipe names it.
    """
    try:
        return run.execute(stage(run.storage, generation, passages, section, sources, most, language))
    except (InputError, RunError) as error:
        if section.field == WHOLE.field or type(error) not in (InputError, RunError):
            raise
        raise type(error)(in_section(str(error), section)) from error


def stage(
    storage: Storage,
    generation: GenerationSettings,
    passages: Table,
    section: Section,
    sources: Table | None,
    most: int | None,
    language: str = ENGLISH,
) -> Stage:
    """What `build` executes; the arguments are the same, and the storage of the run."""
    types = load_types(generation)
    fingerprint: dict[str, Any] = {
        "generation": identity(generation, types, section), "passages": passages.fingerprint,
    }  # fmt: skip
    if generation.engine == "extractive" and language != ENGLISH:
        fingerprint["language"] = language
    if sources:
        fingerprint |= {"sources": sources.fingerprint, "sources_used": most}
    return Stage(
        title=section.stage,
        table=QUERIES,
        path=section.path,
        worker=QueryWorker,
        arguments={
            "generation": generation,
            "types": types,
            "storage": storage,
            "passages_path": passages.path,
            "section": section,
            "language": language,
        },
        shards=lambda: plan_shards(
            sources or passages,
            generation.rows_per_shard,
            where=None if sources else "is_source",
            units_per_row=units_per_row(generation, types, passages, sources, most, section),
            most=most,
        ),
        fingerprint=fingerprint,
        pool=place(generation),
        many_threads=generation.engine == "vllm",
    )


def identity(
    generation: GenerationSettings, types: Mapping[str, QueryType], section: Section = WHOLE
) -> dict[str, Any]:
    """What determines the queries: of the settings, and of the files they name the content, not the place."""
    settings = generation.model_dump(mode="json", exclude=_PLACEMENT | _LATER | _WHICH | _OF_SECTION)
    settings |= section.identity
    for later in ("lora", "revision"):
        if getattr(generation, later) is None:
            del settings[later]  # so that runs from before there was such a field continue
    arguments = settings["engine_args"]
    settings["engine_args"] = {key: value for key, value in arguments.items() if key not in PLACEMENT_ARGS}
    if generation.engine == "extractive":  # reads no prompt
        limits = {name: [kind.weight, kind.min_characters, kind.max_characters] for name, kind in types.items()}
        return settings | {"types": limits}
    return settings | {"types": {name: kind.digest for name, kind in types.items()}, "template": template_digest()}


def place(generation: GenerationSettings) -> PoolSettings:
    """The pool of the engine.

    A vLLM engine over several GPUs is one worker that holds them all. To a server with limits one worker sends, unless
    the recipe says how many do, since each of them keeps to its part of the limits.
    """
    pool = generation.pool
    if (generation.requests_per_minute or generation.tokens_per_minute) and pool.workers is None:
        return pool.model_copy(update={"workers": 1})
    if generation.engine == "vllm" and generation.tensor_parallel > max(1, pool.gpus):
        return pool.model_copy(update={"gpus": float(generation.tensor_parallel)})
    return pool


def open_engine(
    generation: GenerationSettings,
    types: Mapping[str, QueryType],
    storage: Storage,
    passages_path: str,
    language: str = ENGLISH,
) -> Engine:
    """Makes the engine that the settings name; loads its model. `language` is that of the passages.

    Raises:
        InputError: its model cannot be found, or a package it needs is not installed.
    """
    if generation.engine == "vllm":
        from generation.engines.vllm import VllmEngine

        return VllmEngine(generation, types)
    if generation.engine == "openai":
        from generation.engines.openai import OpenAIEngine

        return OpenAIEngine(generation, types)
    from generation.engines.extractive import ExtractiveEngine, corpus_frequencies

    return ExtractiveEngine(generation, corpus_frequencies(storage, passages_path), language)


class QueryWorker:
    """Has an engine write the queries of a shard's passages.

    Args:
        generation: the engine, and what it is asked for.
        types: the query types.
        storage: storage of the run.
        passages_path: path of PASSAGES.
        table: the table that is written.
        language: of the passages, a code.
    """

    def __init__(
        self,
        generation: GenerationSettings,
        types: Mapping[str, QueryType],
        storage: Storage,
        passages_path: str,
        section: Section = WHOLE,
        table: str | None = None,
        language: str = ENGLISH,
    ) -> None:
        self.table = table or section.path
        self.generation = generation
        self.section = section
        self.types = types
        self.storage = storage
        engine: Any = open_engine(generation, types, storage, passages_path, language)
        self.engine = engine  # a LanguageModel, where the engine reads prompts
        self._deciding = asyncio.Lock()
        self._decision: style.Decision | None = None
        self._reads_prompts = generation.engine != "extractive"
        if self._reads_prompts and (known := style.without_trial(generation, engine.styles)):
            self._settle(known)

    async def process(self, task: Task) -> Output:
        """Rows of SOURCES or PASSAGES to rows of QUERIES, and to drops by reason."""
        assert task.rows is not None, "queries are planned over sources or passages"
        stats = await self._decide() if self._reads_prompts else {}
        passages = task.rows.to_pylist()
        if self._reads_prompts and (count := passages_with_names(passages)):
            stats = stats | {"special_token_passages": count}
        requests = [request for row in passages for request in self._requests(row)]
        answers = await self.engine.answer(requests)
        output = collect(requests, answers, self.types)
        return replace(output, stats=output.stats | stats)

    async def _decide(self) -> dict[str, int]:
        """Decides how prompts are written, before the first is; returns counts of the trial, if its decision holds."""
        async with self._deciding:
            if self._decision:
                return {}
            decision, made = await style.decide(
                self.storage, self.table, self.generation, self.engine, self._trial, self._kept
            )
            self._settle(decision)
        return {f"trial_{name}_kept": tried.kept for name, tried in decision.tried.items()} if made else {}

    def _settle(self, decision: style.Decision) -> None:
        self._decision = decision
        self.engine.style, self.engine.layout = decision.style, decision.layout
        style.announce(decision)

    def _trial(self) -> list[Request]:
        rows = style.trial_rows(self.storage, self.table)
        return [request for row in rows for request in self._requests(row, always=True)]

    def _requests(self, row: dict[str, Any], always: bool = False) -> list[Request]:
        """What is asked for one passage; with `always` one query of every type."""
        source, unit = row["passage_id"], self.section.unit
        second = None
        if row.get("neighbour_id") is not None:
            second = SecondPassage(row["neighbour_id"], row["neighbour_title"], row["neighbour_text"])
        if always:
            counts = {name: 1 for name, kind in self.types.items() if kind.hops == 1 or second}
        elif self.section.writes_for(source):
            counts = units_of(self.generation, self.types, source, has_neighbour=second is not None)
        else:
            counts = {}
        return [
            Request(
                unit(source, query_type, sample), source, row["title"], row["text"], query_type, sample,
                second if self.types[query_type].hops == 2 else None,
            )
            for query_type, count in sorted(counts.items(), key=lambda each: self.types[each[0]].hops)
            for sample in range(count)
        ]  # fmt: skip

    def _kept(self, requests: list[Request], answers: list[Answer]) -> style.Kept:
        """What `collect` keeps of a trial."""
        output = collect(requests, answers, self.types)
        largest = max(output.drops, key=lambda reason: (output.drops[reason], reason), default=None)
        return style.Kept(output.rows.num_rows, len(requests), largest)

    async def close(self) -> None:
        """Shuts the engine down."""
        close = getattr(self.engine, "close", None)
        closing = close() if close else None
        if inspect.isawaitable(closing):
            await closing


def collect(requests: list[Request], answers: list[Answer], types: Mapping[str, QueryType]) -> Output:
    """Turns answers into rows; counts those without text, of a wrong length, and texts that a source has already.

    The stats are the figures of every type (`generation.type_figures`).

    Args:
        requests: what was asked.
        answers: one per request, in the same order.
        types: their limits of length.
    """
    rows: list[dict[str, Any]] = []
    dropped: list[Dropped] = []
    stats: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    source, source_words = "", frozenset[str]()  # of the passage, or of both

    def drop(request: Request, reason: str, text: str) -> None:
        dropped.append(Dropped(request.unit, reason, text))
        stats.update(lost([request.query_type], reason))

    for request, answer in zip(requests, answers, strict=True):
        if answer.unit != request.unit:
            raise ValueError(f"the engine answered {answer.unit} where {request.unit} was asked")
        if answer.is_cut:
            stats[PASSAGE_CUT] += 1
        if answer.text is None:
            drop(request, answer.reason or "no_answer", answer.dropped)
            continue
        kind, key = types[request.query_type], (request.source_id, answer.text.casefold())
        if len(answer.text) < kind.min_characters:
            drop(request, "too_short", answer.text)
        elif kind.max_characters and len(answer.text) > kind.max_characters:
            drop(request, "too_long", answer.text)
        elif key in seen:
            drop(request, "duplicate", answer.text)
        else:
            seen.add(key)
            second = request.second
            read = "\n".join([request.title, request.text, *((second.title, second.text) if second else ())])
            if read != source:
                source, source_words = read, frozenset(words(read))
            kept(stats, request.query_type, answer.text, source_words)
            rows.append(
                {
                    "query_id": request.unit,
                    "source_id": request.source_id,
                    "query_type": request.query_type,
                    "text": answer.text,
                    "sample": request.sample,
                    "second_source_id": second.passage_id if second else None,
                }
            )
    table = pa.Table.from_pylist(rows, schema=QUERIES.schema)
    drops = dict(Counter(each.reason for each in dropped))
    for answer in answers:
        stats.update(prompt_tokens=answer.prompt_tokens, cached_tokens=answer.cached_tokens)
    tokens = sum(answer.tokens for answer in answers)
    return Output(table, drops, tokens=tokens, stats=dict(stats), dropped=dropped)
