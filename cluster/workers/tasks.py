"""The tasks of a stage: a queue of waiting tasks, and bisection of those that fail.

A task that failed is tried again. After `limit` failures it is cut in two, and its parts likewise, until the row that
causes the failure is alone; that row becomes a reject. This module uses no Ray and no storage: the pool takes tasks
from `queue` and reports how they ended.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from cluster.tables.commit import Commit
from cluster.tables.plan import Shard

ALIKE = 8  # so many rows that fail alike, and none that succeeds, show that the rows are not at fault


@dataclass(eq=False)
class Attempt:
    """A task, rows `start` to `stop` of a shard, and its history.

    Attributes:
        tries: how many times it was begun.
        suspect: whether it was in flight when a worker died; from then on it has a worker alone.
        part: whether it is a part of a shard that was cut.
        running_since: when its worker began it, as far as the driver can tell (monotonic seconds).
        error: its last failure.
    """

    shard: Shard
    start: int
    stop: int
    tries: int = 0
    suspect: bool = False
    part: bool = False
    running_since: float = 0.0
    error: str = ""

    @property
    def name(self) -> str:
        """The shard's name, for logs; for a part also its rows."""
        return f"{self.shard.name}[{self.start}:{self.stop}]" if self.part else self.shard.name


@dataclass(frozen=True)
class Part:
    """A finished part of a shard that was cut. If `commit` is None, it is a single row that could not be done."""

    start: int
    stop: int
    commit: Commit | None
    error: str = ""
    attempts: int = 1


@dataclass(frozen=True)
class Split:
    """A shard that was cut and whose parts are all finished, in order. The driver writes its commit record."""

    shard: Shard
    parts: list[Part]


Finished = list[Commit | Split]


class Tasks:
    """The unfinished tasks of some shards.

    Args:
        shards: the shards, in the order in which they are begun.
        limit: number of failures after which a task is cut, or its only row rejected.

    Attributes:
        queue: the waiting tasks.
        failed: number of failures so far.
        failing: names of the shards that failed and are not done yet.
    """

    def __init__(self, shards: list[Shard], limit: int) -> None:
        self.queue = deque(Attempt(shard, 0, shard.rows) for shard in shards)
        self.limit = limit
        self.failed = 0
        self.failing: set[str] = set()
        self._parts: dict[str, list[Part]] = {}
        self._any_done = False
        self._first_errors: list[str] = []  # of rows that could not be done, before any task was

    @property
    def common_error(self) -> str:
        """The error of all rows that were tried so far, where several rows failed alike and none succeeded; else ""."""
        if self._any_done or len(self._first_errors) < ALIKE:
            return ""
        kinds = {error.partition(":")[0] for error in self._first_errors}
        return self._first_errors[-1] if len(kinds) == 1 else ""

    def put_back(self, attempt: Attempt) -> None:
        """Returns a task to the queue that was interrupted and did not fail itself; the try does not count."""
        attempt.tries -= 1
        self.queue.appendleft(attempt)

    def done(self, attempt: Attempt, commit: Commit) -> Finished:
        """Notes that a task succeeded. Returns its shard if the shard is finished now."""
        self._any_done = True
        if attempt.part:
            return self._part(attempt, commit)
        self.failing.discard(attempt.shard.name)
        return [commit]

    def charge(self, attempt: Attempt, error: str, *, cut_now: bool = False) -> Finished:
        """Charges a failure to a task: the task is tried again, cut in two, or its only row is rejected.

        Args:
            attempt: the task.
            error: the failure, for logs and for the reject.
            cut_now: cut the task after this first failure; a single row still has all its tries.

        Returns:
            The task's shard, if the shard is finished now.
        """
        self.failed += 1
        self.failing.add(attempt.shard.name)
        attempt.error = error
        rows = attempt.stop - attempt.start
        # a single row gets all its tries, so an accident does not reject a row that could be done
        limit = 1 if rows > 1 and (attempt.part or cut_now) else self.limit
        if attempt.tries < limit:
            self.queue.appendleft(attempt)
            return []
        if rows > 1:
            middle = attempt.start + rows // 2
            for start, stop in ((middle, attempt.stop), (attempt.start, middle)):
                self.queue.appendleft(replace(attempt, start=start, stop=stop, tries=0, part=True))
            return []
        self._first_errors.append(error)
        return self._part(attempt, None)

    def _part(self, attempt: Attempt, commit: Commit | None) -> Finished:
        """Notes a finished part; returns its shard if this was the last part."""
        shard = attempt.shard
        parts = self._parts.setdefault(shard.name, [])
        parts.append(Part(attempt.start, attempt.stop, commit, attempt.error, attempt.tries))
        if sum(part.stop - part.start for part in parts) < shard.rows:
            return []
        self.failing.discard(shard.name)
        return [Split(shard, sorted(self._parts.pop(shard.name), key=lambda part: part.start))]
