"""What a stage is doing just now, as its driver last said it: `<table>/progress.json`, written every few seconds.

Commit records say what is done; only the driver knows what is running where, what fails, and who is slow. It puts one
small object beside the plan, so that this costs no request per shard, and a reader can tell a driver that works from
one that is gone. Nothing depends on it: without it a table is just as complete.

It also holds the totals of the shards it knows to be done, and which those are, one bit a shard. So `status` of a
table in work need not read a commit record per shard (`cluster/watch/status.py`).
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import psutil
from pydantic import TypeAdapter, ValidationError

from cluster.tables.commit import Commit
from cluster.tables.plan import Shard
from cluster.tables.storage import Storage
from cluster.watch.estimate import Left
from cluster.workers.process import identify, is_alive, machine_id

EVERY_S = 5.0
SILENT_S = 6 * EVERY_S  # a driver that was not heard of for so long is not called running


@dataclass
class Totals:
    """Sums over committed shards."""

    shards: int = 0
    units: int = 0
    rows: int = 0
    rejects: int = 0
    tokens: int = 0
    seconds: float = 0.0
    drops: dict[str, int] = field(default_factory=dict)
    stats: dict[str, int] = field(default_factory=dict)

    def add(self, commit: Commit) -> None:
        """Counts one more shard."""
        self.shards += 1
        self.units += commit.units
        self.rows += commit.rows
        self.rejects += commit.rejects
        self.tokens += commit.tokens
        self.seconds += commit.seconds
        for sums, new in ((self.drops, commit.drops), (self.stats, commit.stats)):
            for name, count in new.items():
                sums[name] = sums.get(name, 0) + count

    @classmethod
    def of(cls, commits: Iterable[Commit]) -> Totals:
        """The sums over some commits."""
        totals = cls()
        for commit in commits:
            totals.add(commit)
        return totals


@dataclass(frozen=True)
class WorkerState:
    """A worker as its driver sees it: `shards` in work with the seconds so far; `times` as slow as the others."""

    name: str
    node: str
    ready: bool
    shards: list[tuple[str, float]]
    times: float | None = None
    slow: bool = False


@dataclass(frozen=True)
class Word:
    """What a driver says with everything else.

    Attributes:
        state: running, done, failed or interrupted.
        why: the error, where it failed.
        at: when it was written, seconds since 1970 by the driver's clock.
        driver: machine, process id and start of the driver.
    """

    state: str
    why: str
    at: float
    driver: tuple[str, int, float]

    def to_bytes(self) -> bytes:
        """JSON, as `last_word` reads it."""
        return TypeAdapter(type(self)).dump_json(self)

    def heard_s(self) -> float:
        """Seconds since it was written; not below 0, whatever the clocks."""
        return max(time.time() - self.at, 0.0)

    def standing(self) -> str:
        """Its state as it is now: a driver that said "running" and is gone, or silent for long, is called that."""
        if self.state != "running":
            return self.state
        machine, pid, start = self.driver
        if machine == machine_id():
            return "running" if is_alive(pid, start) else "gone"
        return "running" if self.heard_s() < SILENT_S else "silent"


W = TypeVar("W", bound=Word)


@dataclass(frozen=True)
class Heartbeat(Word):
    """Content of progress.json.

    Attributes:
        plan: id of the plan it is about.
        seconds: that this driver has worked on the table.
        shards: planned.
        units: planned.
        totals: what is done, by earlier runs too.
        done: one bit for each planned shard, in base64.
        rows_per_s, tokens_per_s: of all workers together, over the last minute; at the end, over all of `seconds`.
        running: shards in work.
        failing: shards that failed and are not done yet: they are tried again, cut, or their row rejected.
        failures: failed attempts so far.
        workers: all that are alive.
        left: the time left, once there is something to judge by.
    """

    plan: str
    seconds: float
    shards: int
    units: int
    totals: Totals
    done: str
    rows_per_s: float
    tokens_per_s: float
    running: int
    failing: list[str]
    failures: int
    workers: list[WorkerState]
    left: Left | None

    @property
    def slow(self) -> list[WorkerState]:
        """Workers that are slow, the slowest first."""
        return sorted((worker for worker in self.workers if worker.slow), key=lambda worker: -(worker.times or 0.0))

    def knows(self, shards: Sequence[Shard]) -> set[str]:
        """Names of the planned shards that `totals` counts."""
        bits = base64.b64decode(self.done)
        return {shard.name for number, shard in enumerate(shards) if bits[number // 8] >> number % 8 & 1}


def heartbeat_path(table: str) -> str:
    """Where a table's heartbeat lies."""
    return f"{table}/progress.json"


def last_word(kind: type[W], storage: Storage, folder: str) -> W | None:
    """What a driver last said about a table or a piece; None if nothing, or in words of another version."""
    with contextlib.suppress(KeyError, ValidationError):
        return TypeAdapter(kind).validate_json(storage.get(heartbeat_path(folder)))
    return None


def last_heartbeat(storage: Storage, table: str, plan: str) -> Heartbeat | None:
    """The last heartbeat of a plan's driver, if there is one."""
    beat = last_word(Heartbeat, storage, table)
    return beat if beat and beat.plan == plan else None


def how_it_ended(kind: type[BaseException] | None, error: BaseException | None) -> tuple[str, str]:
    """State and reason, from what a context manager is left with."""
    if kind is None:
        return "done", ""
    return ("failed", str(error).partition("\n")[0]) if issubclass(kind, Exception) else ("interrupted", "")


def this_driver() -> tuple[str, int, float]:
    """Machine, process id and start of this process."""
    return (machine_id(), *identify(psutil.Process(os.getpid())))


def bits(shards: Sequence[Shard], done: Container[str]) -> str:
    """One bit for each shard, in base64."""
    array = bytearray((len(shards) + 7) // 8)
    for number, shard in enumerate(shards):
        if shard.name in done:
            array[number // 8] |= 1 << number % 8
    return base64.b64encode(array).decode()
