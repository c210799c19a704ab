"""Queries: an engine writes some of every type for every source passage; each planned one is kept or counted as a drop.

A unit is one source × type × sample; weights say how many of them there are. What an engine cannot write, and why, is
its answer's `reason`; duplicates within a source and texts of a wrong length are found here, for all engines alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cluster.errors import InputError, RunError
from cluster.schemas import QUERIES
from cluster.settings import PoolSettings
from cluster.tables.plan_shards import plan_shards
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from generation.language.names import ENGLISH
from generation.mixture import WHOLE, Section, in_section
from generation.prompting import template_digest
from generation.query_plan import units_per_row
from generation.query_types import QueryType, load_types
from generation.query_worker import QueryWorker
from generation.settings import GenerationSettings

if TYPE_CHECKING:
    from cluster.run import Run

# What says for which passages an engine writes is part of the table SOURCES.
_WHICH = {"budget", "neighbours"}
# Where and how fast an engine runs, and where files lie, not what it writes: a run may be resumed with other values.
_PLACEMENT = {
    "pool", "rows_per_shard", "concurrency", "tensor_parallel", "types_folder", "examples_file", "timeout_s",
    "patience_s", "requests_per_minute", "tokens_per_minute",
}  # fmt: skip
_OF_SECTION = {"share"}  # the identity of the section says exactly which sources are its own
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
    for later in ("lora", "lora_revision", "revision"):
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
