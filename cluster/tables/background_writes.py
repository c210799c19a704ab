"""Writes that nobody waits for: the latest content of a few objects, put by a thread; what fails is let go.

For what is worth showing and not worth a second of work: heartbeats, and logs on an object store.
"""

from __future__ import annotations

import contextlib
import threading

from cluster.tables.storage import Storage, StorageError


class BackgroundWrites:
    """One thread that puts what it was last given for each path."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._latest: dict[str, bytes] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="aside", daemon=True)
        self._thread.start()

    def put(self, path: str, data: bytes) -> None:
        """Has `data` written soon, in place of anything for this path that is not written yet."""
        with self._changed:
            self._latest[path] = data
            self._changed.notify()

    def close(self, limit_s: float = 5.0) -> None:
        """Waits for what is not written yet, but not for long."""
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
