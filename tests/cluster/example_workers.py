"""Workers that misbehave on purpose."""

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
from cluster.tables.plan import Shard
from cluster.tables.storage import Storage
from cluster.workers.worker import Output, Reject, Task

NUMBERS = TableSchema("numbers", pa.schema([("id", pa.string()), ("value", pa.int64())]), "tests", "number")


def shards(rows: int, each: int) -> list[Shard]:
    """Shards whose rows are the numbers first … first + rows."""
    return [
        Shard(f"{index:05d}", min(each, rows - first), params={"first": first})
        for index, first in enumerate(range(0, rows, each))
    ]


class Count:
    """Writes the numbers of its shard. `poison` maps a number to what happens at it."""

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
        kept = [
            number for number in numbers if (kinds[number] or "").partition(":")[0] not in ("reject", "drop", "lose")
        ]
        salt = time.time_ns() if self.salt else 0
        rows = pa.table({"id": [str(n) for n in kept], "value": [n * self.scale + salt for n in kept]}, NUMBERS.schema)
        return Output(rows, drops, rejects, tokens=len(kept), stats={"seen": len(numbers)})

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
    """The same as a coroutine."""

    async def process(self, task: Task) -> Output:  # type: ignore[override]
        await asyncio.sleep(self.seconds)
        if any(self.poison.get(number) == "hang" for number in self.numbers(task)):
            await asyncio.sleep(1000)
        return self.count(task)


class WholeIsLong(Count):
    """Takes its time for whole shards only."""

    def process(self, task: Task) -> Output:
        if task.stop - task.start == task.shard.rows:
            time.sleep(self.seconds)
        return self.count(task)


class Parent(Count):
    """Starts a child process that outlives it, and writes its id to `marker`."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        # a session of its own: Ray ends the process group of a worker, as some engines' children escape it
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        Path(marker).write_text(str(child.pid))


class Closing(Count):
    """Says that it was closed."""

    def close(self) -> None:
        Path(self.marker).write_text("closed")


class Slow(Count):
    """Takes too long to construct."""

    def __init__(self) -> None:
        time.sleep(1000)


class OneSlow(Count):
    """The first one to be constructed takes five times as long as the others."""

    def __init__(self, seconds: float, marker: str, **arguments: Any) -> None:
        try:
            Path(marker).touch(exist_ok=False)
            seconds *= 5
        except FileExistsError:
            pass
        super().__init__(seconds=seconds, **arguments)


class Reading(Count):
    """Reads a data file of another table, when it is constructed or for every task."""

    def __init__(self, storage: Storage, file: str, early: bool) -> None:
        super().__init__()
        self.storage, self.file, self.early = storage, file, early
        if early:
            read_checked(self.storage, file)

    def process(self, task: Task) -> Output:
        if not self.early:
            read_checked(self.storage, self.file)
        return self.count(task)
