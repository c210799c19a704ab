"""How much processor time a worker uses, beside how long it holds its cores."""

from __future__ import annotations

import contextlib
import os
import threading
import time

import psutil

CHILDREN_S = 2.0  # between two looks at the child processes, which cost a list of all processes


class CoreClock:
    """Processor time of this process and its children, between one reading and the next.

    Readings add up over a worker's life, however many tasks it does at a time. The time between tasks counts, too: a
    worker that waits for its next task does not use its cores.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children_s, self._children_at = 0.0, float("-inf")
        self._last = self._cpu_s(), time.monotonic()

    def take(self) -> tuple[float, float]:
        """Seconds of processor time, and seconds that passed, since the last call."""
        with self._lock:
            now = self._cpu_s(), time.monotonic()
            before, self._last = self._last, now
        return max(0.0, now[0] - before[0]), now[1] - before[1]

    def _cpu_s(self) -> float:
        own = os.times()
        if time.monotonic() - self._children_at >= CHILDREN_S:
            self._children_s, self._children_at = 0.0, time.monotonic()
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error, OSError):  # the child ended meanwhile
                    times = child.cpu_times()
                    self._children_s += times.user + times.system
        return own.user + own.system + own.children_user + own.children_system + self._children_s
