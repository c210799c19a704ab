"""Writes in the background: a thread puts the latest content of a few objects, and drops a write that fails.

Heartbeats use it, and logs on an object store: useful to see, but no work may wait for them.
"""

from __future__ import annotations

import contextlib
import threading

from cluster.tables.storage import Storage, StorageError


class BackgroundWrites:
    """A thread that writes, for each path, the content that was given last."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._latest: dict[str, bytes] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="background writes", daemon=True)
        self._thread.start()

    def put(self, path: str, data: bytes) -> None:
        """Queues `data` to be written; it replaces content for the same path that is still queued."""
        with self._changed:
            self._latest[path] = data
            self._changed.notify()

    def close(self, limit_s: float = 5.0) -> None:
        """Ends the thread; waits at most `limit_s` seconds for queued content to be written."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(limit_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._latest or self._closed)
                if not self._latest:
                    return
                path = next(iter(self._latest))
                data = self._latest.pop(path)
            with contextlib.suppress(StorageError):
                self.storage.put(path, data)
