"""A stage in one piece, training or evaluation, as its driver last said how far it is: `<stage>/progress.json`.

The same idea as the heartbeat of a table (`cluster/watch/heartbeat.py`), with units in place of shards.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from cluster.schemas import ONE_PROCESS_STAGES
from cluster.tables.storage import Storage, StorageError
from cluster.watch.estimate import Left, time_left
from cluster.watch.heartbeat import EVERY_S, Word, heartbeat_path, how_it_ended, last_word, this_driver
from cluster.watch.phrases import rate, span
from cluster.watch.progress import Progress, TaskHandle

WINDOW = 60  # latest advances that the time left is judged by


@dataclass(frozen=True)
class Pulse(Word):
    """Content of progress.json: what is being done (`title`), how far, how fast, and the text under the bar."""

    title: str
    unit: str
    units: int
    units_done: int
    units_per_s: float
    tokens_per_s: float
    text: str
    left: Left | None

    def words(self) -> str:
        """All of it in one line."""
        words = [f"{self.title} {self.units_done:,}/{self.units:,} {self.unit}", f"{rate(self.units_per_s)}/s"]
        if self.tokens_per_s:
            words.append(f"{rate(self.tokens_per_s)} tokens/s")
        if self.text:
            words.append(self.text)
        if self.left:
            words.append(f"{span(self.left)} left")
        return " · ".join(words)


class Watch:
    """Says every few seconds what a stage's bar shows; a context around the stage."""

    def __init__(self, storage: Storage, name: str, progress: Progress, every_s: float = EVERY_S) -> None:
        self.storage, self.name, self.progress, self.every_s = storage, name, progress, every_s
        self._driver = this_driver()
        self._over = threading.Event()
        self._bar: TaskHandle | None = None
        self._advances: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self._last = (0, time.monotonic())
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(self.every_s)  # not for ever: a storage may neither answer nor refuse
        self._say(*how_it_ended(kind, error))

    def _run(self) -> None:
        while True:
            self._say("running", "")
            if self._over.wait(self.every_s):
                return

    def _say(self, state: str, why: str) -> None:
        bar = self.progress.current or TaskHandle(self.name, 0, "")
        done = bar.before + bar.done
        self._look(bar)
        bar.left = self._left(bar.total - done)
        pulse = Pulse(
            state=state, why=why, at=time.time(), driver=self._driver, title=bar.title, unit=bar.unit, units=bar.total,
            units_done=done, units_per_s=round(bar.per_s, 3), tokens_per_s=round(bar.tokens_per_s, 1), text=bar.text,
            left=bar.left,
        )  # fmt: skip
        with contextlib.suppress(StorageError):
            self.storage.put(heartbeat_path(self.name), pulse.to_bytes())

    def _look(self, bar: TaskHandle) -> None:
        """Notes how long the latest advance took; a stage may show one bar after the other."""
        now = time.monotonic()
        if bar is not self._bar:
            self._bar, self._last = bar, (0, now)
            self._advances.clear()
        count, since = self._last
        if bar.done > count:
            if count:  # the first one holds loading
                self._advances.append((bar.done - count, now - since))
            self._last = (bar.done, now)

    def _left(self, units: int) -> Left | None:
        if not self._advances or units <= 0:
            return None
        mean = sum(count for count, _ in self._advances) / len(self._advances)
        return time_left(self._advances, units, math.ceil(units / mean), 1, [time.monotonic() - self._last[1]])


def one_process_stages(storage: Storage) -> list[dict[str, Any]]:
    """One record for each stage in one piece that was begun, done or not.

    Keys: stage, table (the same), state (as in `cluster.watch.status`), unit, units, units_done, units_per_s,
    tokens_per_s, left_s (low, middle, high), heard_s, why (it failed), now (all that in words).
    """
    found = []
    for name in ONE_PROCESS_STAGES:
        done = storage.exists(f"{name}/record.json")
        if not done and not storage.exists(f"{name}/plan.json"):
            continue
        pulse = last_word(Pulse, storage, name)
        state = pulse.standing() if pulse else "stopped"
        if done:
            state = "done"
        elif state == "done":  # it was, and its record was taken away
            state = "stopped"
        left = pulse.left if pulse and state == "running" else None
        found.append({
            "stage": name,
            "table": name,
            "state": state,
            "unit": pulse.unit if pulse else "",
            "units": pulse.units if pulse else 0,
            "units_done": pulse.units_done if pulse else 0,
            "units_per_s": pulse.units_per_s if pulse else None,
            "tokens_per_s": pulse.tokens_per_s if pulse else None,
            "left_s": left and [round(s, 1) for s in (left.low, left.middle, left.high)],
            "heard_s": round(pulse.heard_s(), 1) if pulse else None,
            "why": pulse.why if pulse and state == "failed" else "",
            "now": [pulse.words()] if pulse and state != "done" else [],
        })  # fmt: skip
    return found
