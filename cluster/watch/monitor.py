"""Watches a stage for its driver: looks at its pool once a second, tells terminal, storage and metrics."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from cluster.tables.background_writes import BackgroundWrites
from cluster.tables.commit import Commit
from cluster.tables.table import Table
from cluster.watch.estimate import SLOW, Left, slowness, time_left
from cluster.watch.heartbeat import (
    EVERY_S,
    Heartbeat,
    Totals,
    WorkerState,
    bits,
    heartbeat_path,
    how_it_ended,
    this_driver,
)
from cluster.watch.metrics import StageMetrics
from cluster.watch.progress import TaskHandle

if TYPE_CHECKING:
    from cluster.workers.pool import Pool

LOOK_S = 1.0
WINDOW_S = 60.0  # over which a stage's rates are taken
WINDOW_SHARDS = 20  # but at least so many


class Monitor:
    """Fed by the run: `done` for every commit, `look` as often as you like. A context: leaving it says how it ended."""

    def __init__(self, table: Table, handle: TaskHandle, writes: BackgroundWrites) -> None:
        self.table = table
        self.handle = handle
        self.writes = writes
        self.totals = Totals.of(table.commits())
        self._driver = this_driver()
        self._begun = time.monotonic()
        self._before = replace(self.totals)
        self._window: deque[tuple[float, int, int]] = deque([(self._begun, self.totals.rows, self.totals.tokens)])
        self._looked = self._said = float("-inf")
        self._failures = 0
        self._metrics: StageMetrics | None = None
        handle.resumed(self.totals.units)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._say(self._beat(None, *how_it_ended(kind, error)))

    def done(self, commit: Commit) -> None:
        """Counts a shard."""
        self.totals.add(commit)
        self.handle.advance(commit.units, commit.tokens)

    def look(self, pool: Pool) -> None:
        """Looks at the pool, if the last look is a while ago."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        self._slide(pool, now)
        self._failures = pool.tasks.failed
        beat = self._beat(pool, "running", "")
        self.handle.show(beat)
        if now - self._said >= EVERY_S:
            self._said = now
            self._say(beat)

    def _slide(self, pool: Pool, now: float) -> None:
        """Rates are over the last minute, or the last shards where these take longer, and never over loading."""
        if not any(member.ready for member in pool.members) and self.totals.shards == self._before.shards:
            self._window.clear()
        if not self._window or self.totals.rows != self._window[-1][1]:
            self._window.append((now, self.totals.rows, self.totals.tokens))
        while len(self._window) > WINDOW_SHARDS and now - self._window[1][0] > WINDOW_S:
            self._window.popleft()

    def _say(self, beat: Heartbeat) -> None:
        done = bits(self.table.plan.shards, self.table.committed())
        self.writes.put(heartbeat_path(self.table.path), replace(beat, done=done).to_bytes())
        self.handle.show(beat)
        if self._metrics is None and self._looked > 0:  # a pool was seen, so Ray is connected
            self._metrics = StageMetrics(self.table.path)
        if self._metrics:
            self._metrics.show(beat)

    def _beat(self, pool: Pool | None, state: str, why: str) -> Heartbeat:
        now = time.monotonic()
        workers = _workers(pool, now) if pool else []
        since, rows, tokens = self._window[0] if pool else (self._begun, self._before.rows, self._before.tokens)
        seconds = max(now - since, 1e-6)
        plan = self.table.plan
        return Heartbeat(
            plan=plan.id,
            state=state,
            why=why,
            at=time.time(),
            driver=self._driver,
            seconds=round(now - self._begun, 3),
            shards=len(plan.shards),
            units=plan.units,
            totals=replace(self.totals, drops=dict(self.totals.drops), stats=dict(self.totals.stats)),
            done="",
            rows_per_s=(self.totals.rows - rows) / seconds,
            tokens_per_s=(self.totals.tokens - tokens) / seconds,
            running=sum(len(worker.shards) for worker in workers),
            failing=sorted(pool.tasks.failing) if pool else [],
            failures=self._failures,
            workers=workers,
            left=self._left(pool, workers) if pool else None,
        )

    def _left(self, pool: Pool, workers: list[WorkerState]) -> Left | None:
        units, shards = self.table.plan.units - self.totals.units, len(self.table.plan.shards) - self.totals.shards
        running = [seconds for worker in workers for _, seconds in worker.shards]
        return time_left(pool.durations, units, shards, pool.slots, running)


def _workers(pool: Pool, now: float) -> list[WorkerState]:
    """The pool's workers. Slow is who takes long by the median, or is at a shard for longer than any shard took."""
    times = slowness({member.name: member.durations for member in pool.members})
    longest = max((seconds for _, seconds in pool.durations), default=float("inf"))
    found = []
    for member in pool.members:
        shards = [(attempt.name, round(now - attempt.running_since, 1)) for attempt in member.at_work]
        how = times.get(member.name)
        worst = max((seconds for _, seconds in shards), default=0.0)
        if len(pool.members) > 1 and worst > SLOW * longest:  # it may never end, so no median would show it
            how = max(how or 0.0, worst / longest)
        slow = how is not None and how >= SLOW
        found.append(WorkerState(member.name, member.node, member.ready, shards, how and round(how, 2), slow))
    return found
