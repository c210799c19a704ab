"""`logs/<stage>.log`: one line an event, each with time, table, worker, node and shard."""

from __future__ import annotations

import contextlib
import time
from typing import TextIO

from cluster.disclosure import disclose
from cluster.schemas import stage_of
from cluster.tables.background_writes import BackgroundWrites
from cluster.tables.storage import Storage

EVERY_S = 30.0  # on an object store, where nothing can be appended


class StageLog:
    """The log of a stage while one of its tables is worked on.

    A local file gets every line at once. An object is written anew, with what earlier runs wrote before it, at most
    every `EVERY_S` seconds and at the end.
    """

    def __init__(self, storage: Storage, table: str, writes: BackgroundWrites) -> None:
        self.table = table
        self.path = f"logs/{stage_of(table)}.log"
        self._aside = writes
        self._begun = self._written = time.monotonic()  # beside the wall clock, which may jump
        self._parts: list[bytes] = []
        self._local = storage.local_path
        self._file: TextIO | None = None
        if self._local is not None:
            target = self._local / self.path
            with contextlib.suppress(OSError):  # a full disk: work waits for room, its log does not
                target.parent.mkdir(parents=True, exist_ok=True)
                self._file = target.open("a", buffering=1)
        else:
            with contextlib.suppress(KeyError):
                self._parts.append(storage.get(self.path))

    def add(self, text: str, worker: str, node: str, shard: str) -> None:
        """Appends an event; a text of several lines becomes as many lines."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        who = f"table={self.table} worker={worker} node={node} shard={shard}"
        head = f"{now}+{time.monotonic() - self._begun:.3f} {who} "
        lines = "".join(f"{head}{line}\n" for line in disclose(text).splitlines())
        if self._local is not None:
            with contextlib.suppress(OSError):
                if self._file:
                    self._file.write(lines)
            return
        self._parts.append(lines.encode())
        if time.monotonic() - self._written > EVERY_S:
            self._write()

    def close(self) -> None:
        """Ends the log of this table."""
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
        elif self._parts:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        self._parts = [b"".join(self._parts)]
        self._aside.put(self.path, self._parts[0])
