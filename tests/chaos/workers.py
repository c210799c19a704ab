"""Workers that note every shard they begin, and that kill themselves or the driver at a chosen point of the protocol.

The points are inside the engine, so a worker replaces one of the engine's functions. The death is a real SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.schemas import TableSchema
from cluster.tables.commit import Commit
from cluster.workers import actor
from cluster.workers.worker import Output, Task
from tests.cluster.example_workers import NUMBERS, Count

BLOBS = TableSchema("blobs", pa.schema([("id", pa.string()), ("value", pa.int64()), ("blob", pa.binary())]), "", "row")


class Recorded(Count):
    """A worker that counts, and notes each task it begins as a line `table shard pid time` in the file `marker`.

    A task takes `seconds` until the file `<marker>.hurry` exists; then the test needs no more time.
    """

    def __init__(self, table: str, marker: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.table = table
        self.log = marker

    def process(self, task: Task) -> Output:
        self.note(task)
        return super().process(task)

    def note(self, task: Task) -> None:
        with Path(self.log).open("a") as file:
            file.write(f"{self.table} {task.shard.name} {os.getpid()} {time.time()}\n")
        if Path(f"{self.log}.hurry").exists():
            self.seconds = 0.0


class RecordedAsync(Recorded):
    """The same worker with a coroutine, so that two shards are in work at a time."""

    async def process(self, task: Task) -> Output:  # type: ignore[override]
        self.note(task)
        await asyncio.sleep(self.seconds)
        return self.count(task)


class DiesBeforeRecord(Recorded):
    """A worker that kills itself, or the process `victim`, when `shard` has a data file and no commit record yet.

    It does so once. After the death of the victim it waits `delay` seconds and then writes the commit record, unless
    it was ended meanwhile. Values are salted, so the second data file of the shard differs from the first.
    """

    def __init__(self, shard: str, flag: str, victim: int = 0, delay: float = 0.0, **arguments: Any) -> None:
        super().__init__(salt=True, **arguments)
        publish = actor.publish

        def publish_late(storage: Any, table: str, plan: str, commit: Commit) -> Commit:
            if commit.shard == shard and once(flag, commit.files[0][0]):
                os.kill(victim or os.getpid(), signal.SIGKILL)
                time.sleep(delay)
            return publish(storage, table, plan, commit)

        actor.publish = publish_late


class DiesInWrite(Recorded):
    """A worker with rows of eight megabytes that kills itself, once, while a data file is half-written."""

    def __init__(self, folder: str, flag: str, seed: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.folder, self.flag = folder, flag
        self.delay = random.Random(seed).uniform(0.0, 0.002)
        threading.Thread(target=self._watch, daemon=True).start()

    def process(self, task: Task) -> Output:
        output = super().process(task)
        blobs = [random.Random(number).randbytes(8 * 2**20) for number in output.rows["value"].to_pylist()]
        return Output(output.rows.append_column("blob", pa.array(blobs, pa.binary())))

    def _watch(self) -> None:
        while not Path(self.flag).exists():
            for file in Path("/proc/self/fd").iterdir():
                with contextlib.suppress(OSError):
                    if not self._is_written(file):
                        continue
                    time.sleep(self.delay)
                    if self._is_written(file) and once(self.flag, str(file.readlink())):
                        os.kill(os.getpid(), signal.SIGKILL)

    def _is_written(self, file: Path) -> bool:
        """Whether this open file belongs to a put that has not renamed it to its final name yet."""
        path = str(file.readlink())
        return path.startswith(self.folder) and "#" in path


def once(flag: str, text: str) -> bool:
    """Whether this is the first call with this flag file; the first call writes `text` to it."""
    try:
        with Path(flag).open("x") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def patch_for_death(module: Any, name: str, *, after: bool) -> None:
    """Replaces the function `module.name` so that this process is killed just before the call or just after it."""
    call: Callable[..., Any] = getattr(module, name)

    def deadly(*arguments: Any) -> Any:
        if after:
            call(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, name, deadly)


__all__ = ["BLOBS", "NUMBERS", "DiesBeforeRecord", "DiesInWrite", "Recorded", "RecordedAsync", "patch_for_death"]
