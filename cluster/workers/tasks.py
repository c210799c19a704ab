"""The tasks of a stage: what waits, and what becomes of a task that failed. It is tried again, cut in two, or rejected.

After `limit` failures a task is cut, and its parts again, until the culprit row stands alone and becomes a reject. No
Ray, no storage: the pool says what happened, and takes from `queue`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from cluster.tables.commit import Commit
from cluster.tables.plan import Shard


@dataclass(eq=False)
class Attempt:
    """A task and its history."""

    shard: Shard
    start: int
    stop: int
    tries: int = 0
    suspect: bool = False  # was in flight when a worker died, and runs alone from then on
    part: bool = False  # of a shard that was cut
    running_since: float = 0.0  # as far as the driver can tell
    error: str = ""

    @property
    def name(self) -> str:
        """For logs: the shard, and the rows if not all of them."""
        return f"{self.shard.name}[{self.start}:{self.stop}]" if self.part else self.shard.name


@dataclass(frozen=True)
class Part:
    """A finished part of a shard that was cut; without a commit, a single row that could not be done."""

    start: int
    stop: int
    commit: Commit | None
    error: str = ""
    attempts: int = 1


@dataclass(frozen=True)
class Split:
    """A shard that was cut, all parts finished, in order. Its commit record is the driver's to write."""

    shard: Shard
    parts: list[Part]


Finished = list[Commit | Split]


class Tasks:
    """What is left to do of some shards.

    Args:
        shards: in the order in which they are begun.
        limit: failures after which a task is cut, or its only row rejected.

    `failed` counts failures; `failing` names the shards that failed and are not done yet.
    """

    def __init__(self, shards: list[Shard], limit: int) -> None:
        self.queue = deque(Attempt(shard, 0, shard.rows) for shard in shards)
        self.limit = limit
        self.failed = 0
        self.failing: set[str] = set()
        self._parts: dict[str, list[Part]] = {}

    def again(self, attempt: Attempt) -> None:
        """Puts back a task that was interrupted by what is not its fault."""
        attempt.tries -= 1
        self.queue.appendleft(attempt)

    def done(self, attempt: Attempt, commit: Commit) -> Finished:
        """A task ended well. Returns its shard if that is finished now."""
        if attempt.part:
            return self._part(attempt, commit)
        self.failing.discard(attempt.shard.name)
        return [commit]

    def blame(self, attempt: Attempt, error: str, *, cut_now: bool = False) -> Finished:
        """Charges a failure to a task: try again, cut in two, or reject its only row. Returns finished shards."""
        self.failed += 1
        self.failing.add(attempt.shard.name)
        attempt.error = error
        rows = attempt.stop - attempt.start
        # a single row gets all its attempts, so that no innocent row is rejected for an accident
        limit = 1 if rows > 1 and (attempt.part or cut_now) else self.limit
        if attempt.tries < limit:
            self.queue.appendleft(attempt)
            return []
        if rows > 1:
            middle = attempt.start + rows // 2
            for start, stop in ((middle, attempt.stop), (attempt.start, middle)):
                self.queue.appendleft(replace(attempt, start=start, stop=stop, tries=0, part=True))
            return []
        return self._part(attempt, None)

    def _part(self, attempt: Attempt, commit: Commit | None) -> Finished:
        """Files a finished part; returns its shard if that was the last one."""
        shard = attempt.shard
        parts = self._parts.setdefault(shard.name, [])
        parts.append(Part(attempt.start, attempt.stop, commit, attempt.error, attempt.tries))
        if sum(part.stop - part.start for part in parts) < shard.rows:
            return []
        self.failing.discard(shard.name)
        return [Split(shard, sorted(self._parts.pop(shard.name), key=lambda part: part.start))]
