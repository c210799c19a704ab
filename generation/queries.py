"""Queries: an engine writes some of every type for every source passage; each planned one is kept or counted as a drop.

A unit is one source × type × sample. What an engine cannot write, and why, is its answer's `reason`; duplicates within
a source and too short texts are found here, for all engines alike.
"""

from __future__ import annotations

import inspect
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cluster.errors import InputError
from cluster.plan import plan_shards
from cluster.schemas import QUERIES
from cluster.settings import PoolSettings
from cluster.stage import Stage
from cluster.storage import Storage
from cluster.tables import Table
from cluster.worker import Output, Task
from generation.engines.base import Answer, Engine, Request
from generation.settings import GenerationSettings

if TYPE_CHECKING:
    from cluster.run import Run

# Where and how fast an engine runs, not what it writes: a run may be resumed with other values.
_PLACEMENT = {"pool", "rows_per_shard", "concurrency", "tensor_parallel"}
_LATER = {"near_duplicates"}  # decided when all queries are written
_PLACEMENT_ARGS = {"gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "enforce_eager"}


def build(run: Run, generation: GenerationSettings, passages: Table) -> Table:
    """Writes the synthetic queries of the run.

    Args:
        run: the run.
        generation: the engine, and what it is asked for.
        passages: PASSAGES; queries are written for the rows where `is_source` is true.

    Returns:
        QUERIES, in the order of the sources.

    Raises:
        InputError: the engine's model or server cannot be used as the recipe names it.
    """
    units_per_row = len(generation.query_types) * generation.samples
    return run.execute(
        Stage(
            title="queries",
            table=QUERIES,
            path=QUERIES.path,
            worker=QueryWorker,
            arguments={"generation": generation, "storage": run.storage, "passages_path": passages.path},
            shards=plan_shards(passages, generation.rows_per_shard, where="is_source", units_per_row=units_per_row),
            fingerprint={"generation": identity(generation), "passages": passages.fingerprint},
            pool=place(generation),
        )
    )


def refuse_none(written: Table, logged: Table | None, generation: GenerationSettings) -> None:
    """Looks that there is a query to go on with.

    Raises:
        InputError: there is none; says what took how many.
    """
    if written.num_rows or (logged and logged.num_rows):
        return
    drops: Counter[str] = sum((Counter(commit.drops) for commit in written.commits()), Counter())
    advice = {
        "too_short": f"they have fewer than generation.min_query_characters={generation.min_query_characters} "
        "characters; lower it",
        "duplicate": "their source has the same query already",
    }
    told = "; ".join(
        f"{reason} took {count}" + (f" ({advice[reason]})" if reason in advice else "")
        for reason, count in drops.most_common()
    )
    raise InputError(
        f"no query is left after generation: of {written.plan.units} asked for, {told or 'none was written'}. "
        "Change the section generation, then run again with --overwrite queries."
    )


def identity(generation: GenerationSettings) -> dict[str, Any]:
    """What of the settings determines the queries, with the prompts if a language model reads them."""
    settings = generation.model_dump(mode="json", exclude=_PLACEMENT | _LATER)
    arguments = settings["engine_args"]
    settings["engine_args"] = {key: value for key, value in arguments.items() if key not in _PLACEMENT_ARGS}
    if generation.engine != "extractive":
        from generation.prompting import prompts_digest

        settings["prompts"] = prompts_digest()
    return settings


def place(generation: GenerationSettings) -> PoolSettings:
    """The pool of the engine; a vLLM engine over several GPUs is one worker that holds them all."""
    pool = generation.pool
    if generation.engine == "vllm" and generation.tensor_parallel > max(1, pool.gpus):
        return pool.model_copy(update={"gpus": float(generation.tensor_parallel)})
    return pool


def open_engine(generation: GenerationSettings, storage: Storage, passages_path: str) -> Engine:
    """Makes the engine that the settings name; loads its model.

    Raises:
        InputError: its model cannot be found, or a package it needs is not installed.
    """
    if generation.engine == "vllm":
        from generation.engines.vllm import VllmEngine

        return VllmEngine(generation)
    if generation.engine == "openai":
        from generation.engines.openai import OpenAIEngine

        return OpenAIEngine(generation)
    from generation.engines.extractive import ExtractiveEngine, corpus_frequencies

    return ExtractiveEngine(generation, corpus_frequencies(storage, passages_path))


class QueryWorker:
    """Has an engine write the queries of a shard's passages."""

    def __init__(self, generation: GenerationSettings, storage: Storage, passages_path: str) -> None:
        self.generation = generation
        self.engine = open_engine(generation, storage, passages_path)

    async def process(self, task: Task) -> Output:
        """Rows of PASSAGES to rows of QUERIES, and to drops by reason."""
        assert task.rows is not None, "queries are planned over passages"
        requests = [request for row in task.rows.to_pylist() for request in self._requests(row)]
        answers = await self.engine.answer(requests)
        return collect(requests, answers, self.generation.min_query_characters)

    def _requests(self, row: dict[str, Any]) -> list[Request]:
        source = row["passage_id"]
        return [
            Request(f"{source}:{query_type}:{sample}", source, row["title"], row["text"], query_type, sample)
            for query_type in self.generation.query_types
            for sample in range(self.generation.samples)
        ]

    async def close(self) -> None:
        """Shuts the engine down."""
        close = getattr(self.engine, "close", None)
        closing = close() if close else None
        if inspect.isawaitable(closing):
            await closing


def collect(requests: list[Request], answers: list[Answer], min_characters: int) -> Output:
    """Turns answers into rows; counts those without text, too short ones, and texts that a source has already.

    Args:
        requests: what was asked.
        answers: one per request, in the same order.
        min_characters: shorter queries are dropped.
    """
    kept: list[dict[str, Any]] = []
    drops: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    for request, answer in zip(requests, answers, strict=True):
        if answer.unit != request.unit:
            raise ValueError(f"the engine answered {answer.unit} where {request.unit} was asked")
        if answer.text is None:
            drops[answer.reason or "no_answer"] += 1
            continue
        key = request.source_id, answer.text.casefold()
        if len(answer.text) < min_characters:
            drops["too_short"] += 1
        elif key in seen:
            drops["duplicate"] += 1
        else:
            seen.add(key)
            kept.append(
                {
                    "query_id": request.unit,
                    "source_id": request.source_id,
                    "query_type": request.query_type,
                    "text": answer.text,
                    "sample": request.sample,
                }
            )
    rows = pa.Table.from_pylist(kept, schema=QUERIES.schema)
    return Output(rows, dict(drops), tokens=sum(answer.tokens for answer in answers))
