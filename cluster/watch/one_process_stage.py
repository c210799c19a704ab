"""The monitor of a one-process stage (training, evaluation): writes its progress to `<stage>/progress.json`.

It works like the heartbeat of a table (`cluster/watch/heartbeat.py`), with units instead of shards.
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
from cluster.tables.records import read_record
from cluster.tables.storage import Storage, StorageError
from cluster.watch.estimate import TimeLeft, time_left
from cluster.watch.heartbeat import EVERY_S, DriverReport, end_state, heartbeat_path, last_report, this_driver
from cluster.watch.phrases import rate, span
from cluster.watch.progress import Progress, TaskHandle

WINDOW = 60  # number of latest advances that the time left is estimated from


@dataclass(frozen=True)
class OneProcessReport(DriverReport):
    """The content of a one-process stage's progress.json: the bar's title, progress, rates, text and time left."""

    title: str
    unit: str
    units: int
    units_done: int
    units_per_s: float
    tokens_per_s: float
    text: str
    left: TimeLeft | None

    def words(self) -> str:
        """The report as one line of text."""
        parts = [f"{self.title} {self.units_done:,}/{self.units:,} {self.unit}", f"{rate(self.units_per_s)}/s"]
        if self.tokens_per_s:
            parts.append(f"{rate(self.tokens_per_s)} tokens/s")
        if self.text:
            parts.append(self.text)
        if self.left:
            parts.append(f"{span(self.left)} left")
        return " · ".join(parts)


class OneProcessMonitor:
    """A thread that writes every few seconds what the stage's bar shows; a context manager around the stage."""

    def __init__(self, storage: Storage, name: str, progress: Progress, every_s: float = EVERY_S) -> None:
        self.storage, self.name, self.progress, self.every_s = storage, name, progress, every_s
        self._driver = this_driver()
        self._over = threading.Event()
        self._bar: TaskHandle | None = None
        self._advances: deque[tuple[int, float]] = deque(maxlen=WINDOW)  # units and seconds
        self._last = (0, time.monotonic())
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> OneProcessMonitor:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(self.every_s)  # with a limit: a call to storage may hang
        self._report(*end_state(kind, error))

    def _run(self) -> None:
        while True:
            self._report("running", "")
            if self._over.wait(self.every_s):
                return

    def _report(self, state: str, why: str) -> None:
        """Writes a report of the bar; a write that fails is dropped."""
        bar = self.progress.current or TaskHandle(self.name, 0, "")
        done = bar.before + bar.done
        self._note_advance(bar)
        bar.left = self._time_left(bar.total - done)
        report = OneProcessReport(
            state=state, why=why, at=time.time(), driver=self._driver, title=bar.title, unit=bar.unit, units=bar.total,
            units_done=done, units_per_s=round(bar.per_s, 3), tokens_per_s=round(bar.tokens_per_s, 1), text=bar.text,
            left=bar.left,
        )  # fmt: skip
        with contextlib.suppress(StorageError):
            self.storage.put(heartbeat_path(self.name), report.to_bytes())

    def _note_advance(self, bar: TaskHandle) -> None:
        """Notes the duration of the latest advance. A stage may show several bars in turn; each begins anew."""
        now = time.monotonic()
        if bar is not self._bar:
            self._bar, self._last = bar, (0, now)
            self._advances.clear()
        last_done, last_time = self._last
        if bar.done > last_done:
            if last_done:  # the first advance includes the time of loading
                self._advances.append((bar.done - last_done, now - last_time))
            self._last = (bar.done, now)

    def _time_left(self, units: int) -> TimeLeft | None:
        if not self._advances or units <= 0:
            return None
        mean = sum(count for count, _ in self._advances) / len(self._advances)  # units of an advance
        return time_left(self._advances, units, math.ceil(units / mean), 1, [time.monotonic() - self._last[1]])


def one_process_stages(storage: Storage) -> list[dict[str, Any]]:
    """The status of every one-process stage that was begun, one record each.

    Keys: stage, table (equal to stage), state (as in `cluster/watch/status.py`), unit, units, units_done, units_per_s,
    tokens_per_s, left_s (low, middle, high), heard_s (age of the report in seconds), why (the error, if it failed),
    now (all this as text).
    """
    records = []
    for name in ONE_PROCESS_STAGES:
        done = read_record(storage, f"{name}/record.json") is not None
        if not done and not storage.exists(f"{name}/plan.json"):
            continue
        report = last_report(OneProcessReport, storage, name)
        state = report.current_state() if report else "stopped"
        if done:
            state = "done"
        elif state == "done":  # it was done, and its record was removed
            state = "stopped"
        left = report.left if report and state == "running" else None
        records.append({
            "stage": name,
            "table": name,
            "state": state,
            "unit": report.unit if report else "",
            "units": report.units if report else 0,
            "units_done": report.units_done if report else 0,
            "units_per_s": report.units_per_s if report else None,
            "tokens_per_s": report.tokens_per_s if report else None,
            "left_s": left and [round(s, 1) for s in (left.low, left.middle, left.high)],
            "heard_s": round(report.heard_s(), 1) if report else None,
            "why": report.why if report and state == "failed" else "",
            "now": [report.words()] if report and state != "done" else [],
        })  # fmt: skip
    return records
