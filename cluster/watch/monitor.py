"""The monitor of a stage over shards: reads the pool once a second and reports to terminal, storage and metrics."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from cluster.tables.background_writes import BackgroundWrites
from cluster.tables.commit import Commit
from cluster.tables.table import Table
from cluster.watch.estimate import SLOW_FACTOR, TimeLeft, slowness, time_left
from cluster.watch.heartbeat import (
    EVERY_S,
    Heartbeat,
    Totals,
    WorkerState,
    end_state,
    heartbeat_path,
    shard_bits,
    this_driver,
)
from cluster.watch.metrics import StageMetrics
from cluster.watch.progress import TaskHandle

if TYPE_CHECKING:
    from cluster.workers.pool import Pool

READ_S = 1.0  # between two readings of the pool
WINDOW_S = 60.0  # a stage's rates are those of the last minute
WINDOW_SHARDS = 20  # or of so many shards, if they took longer


class Monitor:
    """The monitor of one stage. The run calls `done` for every commit and `update` as often as it likes.

    It is a context manager: leaving it writes a last heartbeat with the final state.
    """

    def __init__(self, table: Table, handle: TaskHandle, writes: BackgroundWrites) -> None:
        self.table = table
        self.handle = handle
        self.writes = writes
        self.totals = Totals.of(table.commits())
        self._driver = this_driver()
        self._begun = time.monotonic()
        self._before = replace(self.totals)
        self._window: deque[tuple[float, int, int]] = deque([(self._begun, self.totals.rows, self.totals.tokens)])
        self._read_at = self._reported_at = float("-inf")
        self._failures = 0
        self._cores_of_one = 0.0
        self._workers: set[str] = set()  # that have done a shard in this run
        self._metrics: StageMetrics | None = None
        handle.resumed(self.totals.units)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._report(self._heartbeat(None, *end_state(kind, error)))

    def done(self, commit: Commit) -> None:
        """Counts a committed shard."""
        self.totals.add(commit)
        self._workers.add(commit.worker)
        self.handle.advance(commit.units, commit.tokens)

    def update(self, pool: Pool) -> None:
        """Reads the pool and shows its state, if the last reading is at least `READ_S` ago."""
        now, self._cores_of_one = time.monotonic(), pool.pool.cores
        if now - self._read_at < READ_S:
            return
        self._read_at = now
        self._move_window(pool, now)
        self._failures = pool.tasks.failed
        beat = self._heartbeat(pool, "running", "")
        self.handle.show(beat)
        if now - self._reported_at >= EVERY_S:
            self._reported_at = now
            self._report(beat)

    def _move_window(self, pool: Pool, now: float) -> None:
        """Moves the window of time that rates are computed over; the time of loading is never inside."""
        if not any(member.ready for member in pool.members) and self.totals.shards == self._before.shards:
            self._window.clear()
        if not self._window or self.totals.rows != self._window[-1][1]:
            self._window.append((now, self.totals.rows, self.totals.tokens))
        while len(self._window) > WINDOW_SHARDS and now - self._window[1][0] > WINDOW_S:
            self._window.popleft()

    def _report(self, beat: Heartbeat) -> None:
        """Sends a heartbeat to storage, terminal and metrics."""
        done = shard_bits(self.table.plan.shards, self.table.committed())
        self.writes.put(heartbeat_path(self.table.path), replace(beat, done=done).to_bytes())
        self.handle.show(beat)
        if self._metrics is None and self._read_at > 0:  # a pool was read, so Ray is connected
            self._metrics = StageMetrics(self.table.path)
        if self._metrics:
            self._metrics.show(beat)

    def _heartbeat(self, pool: Pool | None, state: str, why: str) -> Heartbeat:
        """The heartbeat now; the last one has no pool."""
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
            left=self._time_left(pool, workers) if pool else None,
            cores=self._held_cores(pool),
        )

    def _held_cores(self, pool: Pool | None) -> float:
        """Cores that the workers hold now; without a pool, those of all that have done a shard."""
        workers = sum(member.ready for member in pool.members) if pool else len(self._workers)
        return self._cores_of_one * workers

    def _time_left(self, pool: Pool, workers: list[WorkerState]) -> TimeLeft | None:
        units, shards = self.table.plan.units - self.totals.units, len(self.table.plan.shards) - self.totals.shards
        running = [seconds for worker in workers for _, seconds in worker.shards]
        return time_left(pool.durations, units, shards, pool.slots, running)


def _workers(pool: Pool, now: float) -> list[WorkerState]:
    """The states of the pool's workers.

    A worker is slow if its median time for a unit is long, or if its running shard takes longer than all shards so far.
    """
    slowness_of = slowness({member.name: member.durations for member in pool.members})
    longest = max((seconds for _, seconds in pool.durations), default=float("inf"))
    states = []
    for member in pool.members:
        shards = [(attempt.name, round(now - attempt.running_since, 1)) for attempt in member.at_work]
        times = slowness_of.get(member.name)
        longest_running = max((seconds for _, seconds in shards), default=0.0)
        # a shard that never ends would not show in the median
        if len(pool.members) > 1 and longest_running > SLOW_FACTOR * longest:
            times = max(times or 0.0, longest_running / longest)
        slow = times is not None and times >= SLOW_FACTOR
        states.append(WorkerState(member.name, member.node, member.ready, shards, times and round(times, 2), slow))
    return states
