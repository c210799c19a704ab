"""What a stage implements: plain Python that turns some rows of a shard into rows of a table. No Ray, no storage."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from cluster.tables.plan import Shard


@dataclass(frozen=True)
class Task:
    """Rows `start` to `stop` of a shard, usually all of them, fewer when a poison row is being looked for.

    `rows` holds just these rows, read and filtered; it is None for a shard that is described by its `params`.
    """

    shard: Shard
    start: int
    stop: int
    rows: pa.Table | None


@dataclass(frozen=True)
class Reject:
    """A row that could not be done: its id, why, and how many planned units it stands for."""

    row: str
    error: str
    units: int = 1


@dataclass(frozen=True)
class Output:
    """What became of a task's units: rows, drops by reason, rejects. `stats` are counters that add up over shards."""

    rows: pa.Table
    drops: dict[str, int] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    tokens: int = 0
    stats: dict[str, int] = field(default_factory=dict)


class Worker(Protocol):
    """Constructed once in its process as `worker(**arguments)`; may have a `close()`.

    `process` accounts for every unit: rows + drops + rejects = `shard.units_of(start, stop)`. It may be a coroutine;
    then two tasks run at a time. An InputError ends the run with exit code 2; any other exception is put down to a row
    of the task, which is looked for by bisection.
    """

    def process(self, task: Task) -> Output | Awaitable[Output]:
        """Does the rows of one task."""
        ...
