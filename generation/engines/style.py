"""How prompts are written: as a chat or as a text to be completed, with the type first or the passage.

What the recipe says, or what a trial on a few passages finds. Small chat models often write better queries when they
complete a text, so `generation.prompt: auto` keeps the style of which more queries pass the clean-up. Engines
compute a beginning that prompts share once, so `generation.layout: auto` tries to put the passage first where that
leaves clearly less to compute. Of all workers of a table one decides, by creating a record in its folder, and the
others read it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from cluster.errors import InputError, ListwiseError
from cluster.tables.shard_reader import ShardReader
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from generation.engines.base import Answer, Engine, Request
from generation.prompting import STYLES, Layout, Prompter, Style
from generation.settings import GenerationSettings

TRIAL_PASSAGES = 8  # spread over the sources; each with every type, in both styles
LESS_TO_COMPUTE = 0.8  # the passage comes first only where prompts then have no more to compute than this share
FEWER_QUERIES = 0.95  # and where at least this share of the queries comes through the clean-up

_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)  # so that the stage's log has it, whatever the level of the process

_LAYOUTS: tuple[Layout, ...] = ("type_first", "passage_first")

Keep = Callable[[list[Request], list[Answer]], "Kept"]


class LanguageModel(Engine, Protocol):
    """An engine that reads prompts. `style`, one of `styles`, and `layout` are set before it is asked anything."""

    styles: tuple[Style, ...]
    style: Style
    layout: Layout
    prompter: Prompter


@dataclass(frozen=True)
class Kept:
    """How many queries of those that were asked for came through the clean-up, and what took most of the others."""

    kept: int
    asked: int
    largest_drop: str | None = None
    error: str | None = None

    def __str__(self) -> str:
        if self.error:
            return f"failed ({self.error})"
        return f"{self.kept} of {self.asked} kept" + (
            f", mostly lost: {self.largest_drop}" if self.largest_drop else ""
        )


@dataclass(frozen=True)
class Decision:
    """Style and layout of all prompts of a table, and why. `tried` is empty where there was nothing to try."""

    style: Style
    why: str
    tried: dict[str, Kept]
    layout: Layout = "type_first"

    def to_bytes(self) -> bytes:
        """JSON."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Decision:
        """Reads what `to_bytes` wrote."""
        record = json.loads(data)
        tried = {name: Kept(**kept) for name, kept in record["tried"].items()}
        return cls(record["style"], record["why"], tried, record.get("layout", "type_first"))


def without_trial(generation: GenerationSettings, styles: tuple[Style, ...]) -> Decision | None:
    """The decision where the recipe makes it, or None.

    Raises:
        InputError: the recipe names a style that the model cannot read.
    """
    allowed = allowed_styles(generation, styles)
    if len(allowed) > 1 or generation.layout == "auto":
        return None
    why = "generation.prompt says so" if generation.prompt != "auto" else "the model has no chat template"
    return Decision(allowed[0], why, {}, generation.layout)


def allowed_styles(generation: GenerationSettings, styles: tuple[Style, ...]) -> tuple[Style, ...]:
    """Those of a model's styles that the recipe leaves to choose from.

    Raises:
        InputError: it names one that the model cannot read.
    """
    if generation.prompt == "auto":
        return styles
    if generation.prompt not in styles:
        raise InputError(
            f"generation.prompt is chat, and the model '{generation.model}' has no chat template. Set it to completion "
            "or auto, or name a chat model."
        )
    return (generation.prompt,)


def refuse_missing_template(generation: GenerationSettings) -> None:
    """Looks, before anything is loaded, whether a model in a folder can be asked in chats if the recipe wants them.

    Raises:
        InputError: it has no chat template.
    """
    folder = Path(generation.model or "").expanduser()
    if generation.engine != "vllm" or generation.prompt != "chat" or not (folder / "tokenizer_config.json").is_file():
        return  # another kind of tokenizer, or a model of the hub: its engine will say
    if not any((folder / name).exists() for name in ("chat_template.jinja", "chat_template.json")):
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        allowed_styles(generation, STYLES if config.get("chat_template") else ("completion",))


async def decide(
    storage: Storage,
    table: str,
    generation: GenerationSettings,
    engine: LanguageModel,
    requests: Callable[[], list[Request]],
    keep: Keep,
) -> tuple[Decision, bool]:
    """The decision for a table, and whether it was made here. The first of several workers' holds.

    Args:
        storage: the workdir.
        table: path of the planned table.
        generation: what the recipe leaves open.
        engine: tries it, if there is no decision yet.
        requests: for the trial.
        keep: counts what the clean-up keeps of answers.

    Raises:
        InputError, RunError: no style works, as `engine.answer` says.
    """
    plan = (await asyncio.to_thread(Table.open, storage, table)).plan
    path = f"{table}/prompt_style.{plan.id}.json"
    made = False
    if not await asyncio.to_thread(storage.exists, path):
        trial = Trial(generation, engine, await asyncio.to_thread(requests), keep)
        made = await asyncio.to_thread(storage.create, path, (await trial.decide()).to_bytes())
    return Decision.from_bytes(await asyncio.to_thread(storage.get, path)), made


@dataclass
class Trial:
    """Asks an engine for some queries in the ways that a recipe leaves open."""

    generation: GenerationSettings
    engine: LanguageModel
    requests: list[Request]
    keep: Keep

    async def decide(self) -> Decision:
        """The style first, then the layout in that style."""
        styles = allowed_styles(self.generation, self.engine.styles)
        wanted = self.generation.layout
        layout: Layout = "type_first" if wanted == "auto" else wanted
        tried: dict[str, Kept] = {}
        if len(styles) > 1:
            failures: list[ListwiseError] = []
            for style in styles:
                tried[style] = await self._kept(style, layout, failures)
            if len(failures) == len(styles):
                raise failures[0]
        # the first of equals: a chat, which is what the model was made for
        best = max(styles, key=lambda style: (tried[style].error is None, tried[style].kept) if tried else (True, 0))
        why = [f"{style}: {kept}" for style, kept in tried.items()]
        if wanted == "auto":
            fresh = {way: self.engine.prompter.fresh_characters(self.requests, best, way) for way in _LAYOUTS}
            share = fresh["passage_first"] / max(1, fresh["type_first"])
            if share <= LESS_TO_COMPUTE:
                first = tried.get(best) or await self._kept(best, layout, [])
                second = tried["passage_first"] = await self._kept(best, "passage_first", [])
                if second.error is None and second.kept >= FEWER_QUERIES * first.kept:
                    layout = "passage_first"
                why.append(f"with the passage first {share:.0%} of the text is to be computed: {second}")
        return Decision(best, "; ".join(why) or "there was nothing to try", tried, layout)

    async def _kept(self, style: Style, layout: Layout, failures: list[ListwiseError]) -> Kept:
        self.engine.style, self.engine.layout = style, layout
        try:
            return self.keep(self.requests, await self.engine.answer(self.requests))
        except ListwiseError as error:
            failures.append(error)
            return Kept(0, len(self.requests), error=str(error)[:300])


def announce(decision: Decision) -> None:
    """Writes the decision into the stage's log."""
    _log.info("prompts are written as %s, %s: %s", decision.style, decision.layout.replace("_", " "), decision.why)


def trial_rows(storage: Storage, table: str) -> list[dict[str, Any]]:
    """A few rows that the shards of a planned table read, spread evenly over all: the same ones for every worker."""
    shards = Table.open(storage, table).plan.shards
    rows = sum(shard.rows for shard in shards)
    count = min(rows, TRIAL_PASSAGES)
    wanted = [number * rows // count for number in range(count)]
    reader, first = ShardReader(storage), 0
    found: list[dict[str, Any]] = []
    for shard in shards:
        for row in (row - first for row in wanted if first <= row < first + shard.rows):
            read = reader.rows(shard, row, row + 1)
            found += read.to_pylist() if read is not None else []
        first += shard.rows
    return found
