"""The log of a stage, `logs/<stage>.log`: one line for each event, with time, table, worker, node and shard."""

from __future__ import annotations

import contextlib
import time
from typing import TextIO

from cluster.disclosure import disclose
from cluster.schemas import stage_of
from cluster.tables.background_writes import BackgroundWrites
from cluster.tables.storage import Storage

EVERY_S = 30.0  # between writes to an object store, which cannot append


class StageLog:
    """The log of a stage while one of its tables is being filled.

    A local file gets every line at once. On an object store the whole log, with the lines of earlier runs, is written
    anew: at most every `EVERY_S` seconds, and at the end.
    """

    def __init__(self, storage: Storage, table: str, writes: BackgroundWrites) -> None:
        self.table = table
        self.path = f"logs/{stage_of(table)}.log"
        self._writes = writes
        self._begun = self._written = time.monotonic()  # logged beside the time of day, which may be set meanwhile
        self._parts: list[bytes] = []
        self._local = storage.local_path
        self._file: TextIO | None = None
        if self._local is not None:
            target = self._local / self.path
            with contextlib.suppress(OSError):  # if the disk is full, there is no log; work waits for room
                target.parent.mkdir(parents=True, exist_ok=True)
                self._file = target.open("a", buffering=1)
        else:
            with contextlib.suppress(KeyError):
                self._parts.append(storage.get(self.path))

    def add(self, text: str, worker: str, node: str, shard: str) -> None:
        """Appends an event; each line of `text` becomes a full line of the log."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        fields = f"table={self.table} worker={worker} node={node} shard={shard}"
        prefix = f"{now}+{time.monotonic() - self._begun:.3f} {fields} "
        lines = "".join(f"{prefix}{line}\n" for line in disclose(text).splitlines())
        if self._local is not None:
            with contextlib.suppress(OSError):
                if self._file:
                    self._file.write(lines)
            return
        self._parts.append(lines.encode())
        if time.monotonic() - self._written > EVERY_S:
            self._write()

    def close(self) -> None:
        """Writes the last lines and closes the file."""
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
        elif self._parts:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        self._parts = [b"".join(self._parts)]
        self._writes.put(self.path, self._parts[0])
