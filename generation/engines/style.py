"""How prompts are written, as a chat or as a text to be completed: what the recipe says, or what gives more queries.

Small chat models often write better queries when they complete a text. `generation.prompt: auto` tries both on a few
passages. Of all workers of a table one decides, by creating a record in its folder, and the others read it.
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
from generation.prompting import STYLES, Style
from generation.settings import GenerationSettings

TRIAL_PASSAGES = 8  # spread over the sources; each with every type, in both styles

_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)  # so that the stage's log has it, whatever the level of the process

Keep = Callable[[list[Request], list[Answer]], "Kept"]


class LanguageModel(Engine, Protocol):
    """An engine that reads prompts. `style` may be set before it is asked anything, to one of `styles`."""

    styles: tuple[Style, ...]
    style: Style


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
    """The style of all prompts of a table, and why. `tried` is empty where there was nothing to try."""

    style: Style
    why: str
    tried: dict[str, Kept]

    def to_bytes(self) -> bytes:
        """JSON."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Decision:
        """Reads what `to_bytes` wrote."""
        record = json.loads(data)
        return cls(record["style"], record["why"], {name: Kept(**kept) for name, kept in record["tried"].items()})


def without_trial(generation: GenerationSettings, styles: tuple[Style, ...]) -> Decision | None:
    """The decision where there is nothing to try, or None.

    Raises:
        InputError: the recipe names a style that the model cannot read.
    """
    if generation.prompt == "auto":
        return None if len(styles) > 1 else Decision(styles[0], "the model has no chat template", {})
    if generation.prompt not in styles:
        raise InputError(
            f"generation.prompt is chat, and the model '{generation.model}' has no chat template. Set it to completion "
            "or auto, or name a chat model."
        )
    return Decision(generation.prompt, "generation.prompt says so", {})


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
        without_trial(generation, STYLES if config.get("chat_template") else ("completion",))


async def decide(
    storage: Storage, table: str, engine: LanguageModel, requests: Callable[[], list[Request]], keep: Keep
) -> tuple[Decision, bool]:
    """The decision for a table, and whether it was made here. The first of several workers' holds.

    Args:
        storage: the workdir.
        table: path of the planned table.
        engine: tries the styles, if there is no decision yet.
        requests: for the trial.
        keep: counts what the clean-up keeps of answers.

    Raises:
        InputError, RunError: no style works, as `engine.answer` says.
    """
    plan = (await asyncio.to_thread(Table.open, storage, table)).plan
    path = f"{table}/prompt_style.{plan.id}.json"
    made = False
    if not await asyncio.to_thread(storage.exists, path):
        decision = await _try(engine, await asyncio.to_thread(requests), keep)
        made = await asyncio.to_thread(storage.create, path, decision.to_bytes())
    return Decision.from_bytes(await asyncio.to_thread(storage.get, path)), made


async def _try(engine: LanguageModel, requests: list[Request], keep: Keep) -> Decision:
    tried: dict[str, Kept] = {}
    failures: list[ListwiseError] = []
    for style in engine.styles:
        engine.style = style
        try:
            tried[style] = keep(requests, await engine.answer(requests))
        except ListwiseError as error:
            failures.append(error)
            tried[style] = Kept(0, len(requests), error=str(error)[:300])
    if len(failures) == len(engine.styles):
        raise failures[0]
    # the first of equals: a chat, which is what the model was made for
    best = max(engine.styles, key=lambda style: (tried[style].error is None, tried[style].kept))
    return Decision(best, "; ".join(f"{style}: {kept}" for style, kept in tried.items()), tried)


def announce(decision: Decision) -> None:
    """Writes the decision into the stage's log."""
    _log.info("prompts are written as %s: %s", decision.style, decision.why)


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
