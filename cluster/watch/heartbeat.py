"""The heartbeat of a stage, `<table>/progress.json`: its driver writes every few seconds what the stage is doing.

Commit records show what is done. Only the driver knows which shards run where, what fails, and which workers are slow.
It writes one small object beside the plan; so this costs no request per shard, and a reader can tell a working driver
from a dead one. Nothing else depends on the heartbeat: a table is complete without it too.

The heartbeat also holds the totals of the shards that the driver knows to be done, and which shards these are, as one
bit for each. So `status` of a running table does not read one commit record per shard (`cluster/watch/status.py`).
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

from cluster.disclosure import disclose
from cluster.tables.commit import Commit
from cluster.tables.plan import Shard
from cluster.tables.storage import Storage
from cluster.watch.estimate import TimeLeft
from cluster.workers.process import identify, is_alive, machine_id

EVERY_S = 5.0
SILENT_S = 6 * EVERY_S  # a driver on another machine without a report for so long is called silent


@dataclass
class Totals:
    """Sums over committed shards."""

    shards: int = 0
    units: int = 0
    rows: int = 0
    rejects: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    held_s: float = 0.0
    drops: dict[str, int] = field(default_factory=dict)
    stats: dict[str, int] = field(default_factory=dict)

    def add(self, commit: Commit) -> None:
        """Adds the commit record of one more shard."""
        self.shards += 1
        self.units += commit.units
        self.rows += commit.rows
        self.rejects += commit.rejects
        self.tokens += commit.tokens
        self.seconds += commit.seconds
        self.cpu_s += commit.cpu_s
        self.held_s += commit.held_s
        for sums, new in ((self.drops, commit.drops), (self.stats, commit.stats)):
            for name, count in new.items():
                sums[name] = sums.get(name, 0) + count

    @property
    def used(self) -> float | None:
        """Share of the held cores that computed; None while nothing is measured. Above 1: more threads than cores."""
        return self.cpu_s / self.held_s if self.held_s else None

    @classmethod
    def of(cls, commits: Iterable[Commit]) -> Totals:
        """The sums over some commit records."""
        totals = cls()
        for commit in commits:
            totals.add(commit)
        return totals


@dataclass(frozen=True)
class WorkerState:
    """A worker as its driver sees it.

    Attributes:
        name, node: "w0", and its node's name.
        ready: whether it is constructed.
        shards: the tasks it processes now, with the seconds so far.
        times: how many times as long as the others it takes for a unit; None while unknown.
        slow: whether it counts as slow.
    """

    name: str
    node: str
    ready: bool
    shards: list[tuple[str, float]]
    times: float | None = None
    slow: bool = False


@dataclass(frozen=True)
class DriverReport:
    """The fields that every report of a driver has.

    Attributes:
        state: running, done, failed or interrupted.
        why: the error, if the state is failed.
        at: time of the report, seconds since 1970 by the driver's clock.
        driver: machine, process id and start of the driver's process.
    """

    state: str
    why: str
    at: float
    driver: tuple[str, int, float]

    def to_bytes(self) -> bytes:
        """The report as JSON, which `last_report` reads."""
        return TypeAdapter(type(self)).dump_json(self)

    def heard_s(self) -> float:
        """Seconds since the report; never negative, even if clocks differ."""
        return max(time.time() - self.at, 0.0)

    def current_state(self) -> str:
        """The state now. If the last report says "running", it is "gone" when the driver's process has ended.

        A driver on another machine cannot be checked; it is "silent" when its report is older than `SILENT_S`.
        """
        if self.state != "running":
            return self.state
        machine, pid, start = self.driver
        if machine == machine_id():
            return "running" if is_alive(pid, start) else "gone"
        return "running" if self.heard_s() < SILENT_S else "silent"


Report = TypeVar("Report", bound=DriverReport)


@dataclass(frozen=True)
class Heartbeat(DriverReport):
    """The content of a table's progress.json.

    Attributes:
        plan: id of the table's plan.
        seconds: time that this driver has worked on the table.
        shards: number of planned shards.
        units: number of planned units.
        totals: sums over all committed shards, also those of earlier runs.
        done: one bit for each planned shard, in base64.
        rows_per_s, tokens_per_s: of all workers together, over the last minute; at the end, over all of `seconds`.
        running: number of tasks that are being processed.
        failing: names of shards that failed and are not done yet.
        failures: number of failed attempts so far.
        workers: all living workers.
        left: the time left, once enough shards are done for an estimate.
        cores: that the workers hold together; in the last report, those of all that have done a shard.
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
    left: TimeLeft | None
    cores: float = 0.0

    @property
    def cores_used(self) -> float | None:
        """Mean of the held cores that computed; None while nothing is measured."""
        return None if self.totals.used is None or not self.cores else self.totals.used * self.cores

    @property
    def slow(self) -> list[WorkerState]:
        """Workers that are slow, the slowest first."""
        return sorted((worker for worker in self.workers if worker.slow), key=lambda worker: -(worker.times or 0.0))

    def counted_shards(self, shards: Sequence[Shard]) -> set[str]:
        """Names of those planned shards that `totals` includes."""
        bits = base64.b64decode(self.done)
        return {shard.name for number, shard in enumerate(shards) if bits[number // 8] >> number % 8 & 1}


def heartbeat_path(table: str) -> str:
    """The path of the heartbeat of a table or a one-process stage."""
    return f"{table}/progress.json"


def last_report(kind: type[Report], storage: Storage, folder: str) -> Report | None:
    """The last report of a driver about a table or one-process stage; None if there is none that can be parsed."""
    with contextlib.suppress(KeyError, ValidationError):
        return TypeAdapter(kind).validate_json(storage.get(heartbeat_path(folder)))
    return None


def last_heartbeat(storage: Storage, table: str, plan: str) -> Heartbeat | None:
    """The last heartbeat of a table, if its driver worked on this plan."""
    beat = last_report(Heartbeat, storage, table)
    return beat if beat and beat.plan == plan else None


def end_state(kind: type[BaseException] | None, error: BaseException | None) -> tuple[str, str]:
    """The final state and the error's first line, from the arguments of a context manager's `__exit__`."""
    if kind is None:
        return "done", ""
    return ("failed", disclose(str(error)).partition("\n")[0]) if issubclass(kind, Exception) else ("interrupted", "")


def this_driver() -> tuple[str, int, float]:
    """Machine, process id and start of this process."""
    return (machine_id(), *identify(psutil.Process(os.getpid())))


def shard_bits(shards: Sequence[Shard], done: Container[str]) -> str:
    """One bit for each shard, in base64."""
    array = bytearray((len(shards) + 7) // 8)
    for number, shard in enumerate(shards):
        if shard.name in done:
            array[number // 8] |= 1 << number % 8
    return base64.b64encode(array).decode()
