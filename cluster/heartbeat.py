"""What a stage is doing just now, as its driver last said it: `<table>/progress.json`, written every few seconds.

Commit records say what is done; only the driver knows what is running where, what fails, and who is slow. It puts one
small object beside the plan, so that this costs no request per shard, and a reader can tell a driver that works from
one that is gone. Nothing depends on it: without it a table is just as complete.

It also holds the totals of the shards it knows to be done, and which those are, one bit a shard. So `status` of a
table in work need not read a commit record per shard (`cluster/status.py`).
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, dataclass, field

import psutil

from cluster.estimate import Left
from cluster.process import identify, lives, machine_id
from cluster.storage import Storage
from cluster.tables import Commit, Shard

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
class Heartbeat:
    """Content of progress.json.

    Attributes:
        plan: id of the plan it is about.
        state: running, done, failed or interrupted.
        why: the error, where it failed.
        at: when it was written, seconds since 1970 by the driver's clock.
        driver: machine, process id and start of the driver.
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
    state: str
    why: str
    at: float
    driver: tuple[str, int, float]
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

    def to_bytes(self) -> bytes:
        """JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Heartbeat:
        """Reads what `to_bytes` wrote."""
        record = json.loads(data)
        left = Left(**record["left"]) if record["left"] else None
        workers = [
            WorkerState(**{**worker, "shards": [(name, seconds) for name, seconds in worker["shards"]]})
            for worker in record["workers"]
        ]
        machine, pid, start = record["driver"]
        totals = Totals(**record["totals"])
        return cls(**{**record, "driver": (machine, pid, start), "totals": totals, "workers": workers, "left": left})

    def heard_s(self) -> float:
        """Seconds since it was written; not below 0, whatever the clocks."""
        return heard_s(self.at)

    def standing(self) -> str:
        """Its state as it is now, see `standing`."""
        return standing(self.state, self.driver, self.at)

    def knows(self, shards: Sequence[Shard]) -> set[str]:
        """Names of the planned shards that `totals` counts."""
        bits = base64.b64decode(self.done)
        return {shard.name for number, shard in enumerate(shards) if bits[number // 8] >> number % 8 & 1}


def heard_s(at: float) -> float:
    """Seconds since this time of day; not below 0, whatever the clocks."""
    return max(time.time() - at, 0.0)


def standing(state: str, driver: tuple[str, int, float], at: float) -> str:
    """A state as it is now: a driver that said "running" and is gone, or silent for long, is called that."""
    if state != "running":
        return state
    machine, pid, start = driver
    if machine == machine_id():
        return "running" if lives(pid, start) else "gone"
    return "running" if heard_s(at) < SILENT_S else "silent"


def heartbeat_path(table: str) -> str:
    """Where a table's heartbeat lies."""
    return f"{table}/progress.json"


def last_heartbeat(storage: Storage, table: str, plan: str) -> Heartbeat | None:
    """The last heartbeat of a plan's driver; None if there is none, or it cannot be read."""
    try:
        beat = Heartbeat.from_bytes(storage.get(heartbeat_path(table)))
    except (KeyError, TypeError, ValueError):  # absent, or of another version
        return None
    return beat if beat.plan == plan else None


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


def describe(beat: Heartbeat) -> list[str]:
    """A stage in work in a few words: one line for all of it, one for each slow worker."""
    if beat.state == "running" and not beat.running and not any(worker.ready for worker in beat.workers):
        doing = f"{len(beat.workers)} workers starting" if len(beat.workers) != 1 else "1 worker starting"
    else:
        nodes = len({worker.node for worker in beat.workers})
        doing = f"{beat.running} running" + (f" on {nodes} nodes" if nodes > 1 else "")
    words = [f"{beat.totals.shards:,}/{beat.shards:,} shards", doing]
    if beat.failing:
        words.append(f"{len(beat.failing)} failed")
    elif beat.failures:
        words.append(f"{beat.failures} failed, tried again")
    words.append(f"{rate(beat.rows_per_s)} rows/s")
    if beat.tokens_per_s:
        words.append(f"{rate(beat.tokens_per_s)} tokens/s")
    if beat.totals.rejects:
        words.append(f"{beat.totals.rejects:,} rejected")
    if beat.left:
        words.append(f"{span(beat.left)} left")
    slow = [
        f"slow: {worker.name} on {worker.node} takes {worker.times:.1f} × as long as the others"
        + (f", in work: {', '.join(f'{name} for {duration(s)}' for name, s in worker.shards)}" if worker.shards else "")
        for worker in beat.slow
    ]
    more = [f"and {len(slow) - 3} more slow workers"] if len(slow) > 3 else []
    return [" · ".join(words), *slow[:3], *more]


def rate(value: float) -> str:
    """A number per second: with a digit behind the point where it is small."""
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}" if value >= 0.1 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def span(left: Left) -> str:
    """A range of times, its ends in the same unit where that is readable."""
    low, high = duration(left.low), duration(left.high)
    if low == high:
        return low
    (first, _, one), (second, _, other) = low.partition(" "), high.partition(" ")
    return f"{first}–{second} {one}" if one == other and " " not in one else f"{low} – {high}"
