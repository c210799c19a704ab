"""What `--until` and `--overwrite` name: a stage, or what one teacher or one retriever has made in it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cluster.errors import InputError
from cluster.schemas import KEPT, STAGES, stage_of

PARTED = {"embeddings": "RETRIEVER", "scores": "TEACHER"}  # stages with tables of one retriever or teacher


@dataclass(frozen=True)
class Again:
    """What a run makes again.

    Attributes:
        stages: these stages as a whole: the first one, and all after it.
        parts: folders of single teachers and retrievers, in earlier stages.
        kept: folders that outlive the tables of their stage, of the stages that are named.
    """

    stages: tuple[str, ...]
    parts: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def covers(self, path: str) -> bool:
        """Whether a table or a folder of the workdir is made again."""
        return stage_of(path) in self.stages or any(f"{path}/".startswith(f"{part}/") for part in self.parts)


def refuse_unknown(option: str, names: Collection[str], parts: bool = False) -> None:
    """Refuses a name that is no stage.

    Args:
        option: for the message.
        names: what it was given.
        parts: whether STAGE/NAME is one, too.

    Raises:
        InputError: it names the unknown ones, and those that there are.
    """

    def is_known(name: str) -> bool:
        stage, slash, part = name.partition("/")
        return stage in STAGES and (not slash or (parts and stage in PARTED and bool(part) and "/" not in part))

    if unknown := sorted(name for name in names if not is_known(name)):
        more = "".join(f", {stage}/{what}" for stage, what in PARTED.items()) if parts else ""
        raise InputError(f"{option} {', '.join(unknown)}: no such stage; there are {', '.join(STAGES)}{more}")


def read_overwrite(names: Collection[str]) -> Again:
    """What the names ask for: their stages and all later ones, or one teacher or retriever and all later stages.

    Raises:
        InputError: a name is unknown.
    """
    refuse_unknown("--overwrite", names, parts=True)
    order = list(STAGES)
    whole = [name for name in names if "/" not in name]
    named = [tuple(name.split("/")) for name in sorted(names) if "/" in name]
    starts = [order.index(name) for name in whole] + [order.index(stage) + 1 for stage, _ in named]
    first = min(starts, default=len(order))
    return Again(
        tuple(order[first:]),
        tuple(
            f"{folder}/{part}"
            for stage, part in named
            if order.index(stage) < first
            for folder in reversed(STAGES[stage])  # scores before the teacher that made them
        ),
        tuple(folder for stage in whole for folder in KEPT.get(stage, ())),
    )


def name_of(path: str) -> str:
    """The name that `--overwrite` takes to make a table or a folder of the workdir again: "lists", or "scores/bm25"."""
    stage, inside = stage_of(path), path.split("/")[1:]
    return f"{stage}/{inside[0]}" if stage in PARTED and inside else stage
