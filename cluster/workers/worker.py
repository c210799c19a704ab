"""The interface that a stage implements: plain Python that turns rows of a shard into rows of a table.

A worker uses no Ray and no storage: it gets its rows and returns its rows.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from cluster.tables.dropped import Dropped
from cluster.tables.plan import Shard


@dataclass(frozen=True)
class Task:
    """Rows `start` to `stop` of a shard: usually all its rows, and fewer while the pool searches for a bad row.

    `rows` holds exactly these rows, read and filtered. It is None for a shard that its `params` describe.
    """

    shard: Shard
    start: int
    stop: int
    rows: pa.Table | None


@dataclass(frozen=True)
class Reject:
    """A row that could not be done: its id, the error, and the number of planned units it stands for."""

    row: str
    error: str
    units: int = 1


@dataclass(frozen=True)
class Output:
    """The output of a task. Its rows, drops and rejects together are all units of the task.

    Attributes:
        rows: rows for the table.
        drops: units left out on purpose, by reason.
        rejects: rows that could not be done.
        tokens: tokens that a model read or wrote.
        stats: counters that add up over shards.
        dropped: units behind `drops`, as far as there is something to look at; some of them are kept
            (`cluster/tables/dropped.py`).
    """

    rows: pa.Table
    drops: dict[str, int] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    tokens: int = 0
    stats: dict[str, int] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)


class Worker(Protocol):
    """A class of a stage. Each actor constructs it once, as `worker(**arguments)`. It may have a method `close()`.

    `process` must account for every unit: rows + drops + rejects = `shard.units_of(start, stop)`. It may be a
    coroutine; then two tasks run at a time. If it raises an InputError, the run ends with exit code 2. If it raises
    an exception that is not from `cluster/errors.py`, the pool finds the row that causes it by bisection and rejects
    that row (`cluster/workers/failures.py`).
    """

    def process(self, task: Task) -> Output | Awaitable[Output]:
        """The output for the rows of one task."""
        ...
