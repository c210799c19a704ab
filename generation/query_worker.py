"""The worker of the queries stage: it opens the engine once, and has it write the queries of every shard."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cluster.tables.storage import Storage
from cluster.workers.worker import Output, Task
from generation.collect import collect
from generation.engines import style
from generation.engines.base import Answer, Engine, Request, SecondPassage
from generation.language.names import ENGLISH
from generation.mixture import WHOLE, Section
from generation.query_types import QueryType, units_of
from generation.settings import GenerationSettings
from generation.special_tokens import passages_with_names


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
