"""Workers that count numbers, and that fail on purpose at chosen ones."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.errors import InputError
from cluster.schemas import TableSchema
from cluster.tables.commit import read_checked
from cluster.tables.dropped import Dropped
from cluster.tables.plan import Shard
from cluster.tables.storage import Storage
from cluster.workers.worker import Output, Reject, Task

NUMBERS = TableSchema("numbers", pa.schema([("id", pa.string()), ("value", pa.int64())]), "tests", "number")


def shards(rows: int, rows_per_shard: int) -> list[Shard]:
    """Shards whose rows are the numbers 0 to `rows` - 1; `params["first"]` is a shard's first number."""
    return [
        Shard(f"{index:05d}", min(rows_per_shard, rows - first), params={"first": first})
        for index, first in enumerate(range(0, rows, rows_per_shard))
    ]


class Count:
    """A worker that writes the numbers of its shard.

    Args:
        poison: what happens at a number: "raise", "kill", "hang", "input", "once", "reject: …", "drop", "lose".
        seconds: time that a task takes.
        marker: file in which every task is noted as "pid shard start stop".
        scale: factor of the written values.
        salt: whether values differ from try to try, as those of a sampling worker do.
    """

    def __init__(
        self,
        poison: dict[int, str] | None = None,
        seconds: float = 0.0,
        marker: str = "",
        scale: int = 1,
        salt: bool = False,
    ) -> None:
        self.poison = poison or {}
        self.seconds = seconds
        self.marker = marker
        self.scale = scale
        self.salt = salt
        if "constructor" in self.poison.values():
            raise ValueError("cannot be constructed")

    def process(self, task: Task) -> Output:
        time.sleep(self.seconds)
        return self.count(task)

    def count(self, task: Task) -> Output:
        numbers = self.numbers(task)
        if self.marker:
            with Path(self.marker).open("a") as file:
                file.write(f"{os.getpid()} {task.shard.name} {task.start} {task.stop}\n")
        self._misbehave(numbers)
        kinds = {number: self.poison.get(number) for number in numbers}
        rejects = [
            Reject(str(number), (kinds[number] or "").partition(": ")[2] or "unlucky")
            for number in numbers
            if (kinds[number] or "").startswith("reject")
        ]
        drops = {"small": sum(kind == "drop" for kind in kinds.values())}
        done = [
            number for number in numbers if (kinds[number] or "").partition(":")[0] not in ("reject", "drop", "lose")
        ]
        salt = time.time_ns() if self.salt else 0
        rows = pa.table({"id": [str(n) for n in done], "value": [n * self.scale + salt for n in done]}, NUMBERS.schema)
        dropped = [Dropped(str(number), "small", f"number {number}") for number in numbers if kinds[number] == "drop"]
        return Output(rows, drops, rejects, tokens=len(done), stats={"seen": len(numbers)}, dropped=dropped)

    def numbers(self, task: Task) -> list[int]:
        if task.rows is not None:
            return [int(name) for name in task.rows.column("id").to_pylist()]
        first = task.shard.params["first"]
        return list(range(first + task.start, first + task.stop))

    def _misbehave(self, numbers: list[int]) -> None:
        for number in numbers:
            kind = self.poison.get(number)
            if kind == "raise":
                raise ValueError(f"number {number} cannot be done")
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "hang":
                time.sleep(1000)
            if kind == "input":
                raise InputError(f"number {number} is not allowed here")
            if kind == "once":
                flag = Path(f"{self.marker}.{number}")
                if not flag.exists():
                    flag.touch()
                    os.kill(os.getpid(), signal.SIGKILL)


class CountAsync(Count):
    """The same worker with a coroutine."""

    async def process(self, task: Task) -> Output:  # type: ignore[override]
        await asyncio.sleep(self.seconds)
        if any(self.poison.get(number) == "hang" for number in self.numbers(task)):
            await asyncio.sleep(1000)
        return self.count(task)


class Repeat(Count):
    """Writes every number as often as its row has units."""

    def count(self, task: Task) -> Output:
        output = super().count(task)
        units = task.shard.units_per_row
        assert isinstance(units, tuple)
        repeated = [row for row, times in enumerate(units[task.start : task.stop]) for _ in range(times)]
        return Output(output.rows.take(pa.array(repeated, pa.int64())))


class SlowWholeShards(Count):
    """A worker that takes `seconds` for a whole shard and no time for a part of one."""

    def process(self, task: Task) -> Output:
        if task.stop - task.start == task.shard.rows:
            time.sleep(self.seconds)
        return self.count(task)


class Parent(Count):
    """A worker that starts a child process, which outlives it, and writes the child's id to `marker`."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        # in a new session: Ray ends the process group of a worker, and some engines' children escape it in this way
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        Path(marker).write_text(str(child.pid))


class Closing(Count):
    """A worker that writes to `marker` when it is closed."""

    def close(self) -> None:
        Path(self.marker).write_text("closed")


class SlowStart(Count):
    """A worker whose construction takes too long."""

    def __init__(self) -> None:
        time.sleep(1000)


class OneSlow(Count):
    """A worker; the first one that is constructed takes five times as long for a task as the others."""

    def __init__(self, seconds: float, marker: str, **arguments: Any) -> None:
        try:
            Path(marker).touch(exist_ok=False)
            seconds *= 5
        except FileExistsError:
            pass
        super().__init__(seconds=seconds, **arguments)


class Reading(Count):
    """A worker that reads a data file of another table: when it is constructed (`early`), or for every task.

    A task that has read it takes `seconds` more.
    """

    def __init__(self, storage: Storage, file: str, early: bool, seconds: float) -> None:
        super().__init__()
        self.storage, self.file, self.early, self.seconds = storage, file, early, seconds
        if early:
            read_checked(self.storage, file)

    def process(self, task: Task) -> Output:
        if not self.early:
            read_checked(self.storage, self.file)
            time.sleep(self.seconds)
        return self.count(task)
