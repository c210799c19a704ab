"""The scheduler: keeps workers alive and supplied with tasks until every shard is done.

The driver sends names of shards, never rows. A worker has two tasks in flight, so it never waits between shards.
`cluster/workers/failures.py` lists what happens to a task that fails; `cluster/workers/tasks.py` does it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError

from cluster.errors import RunError
from cluster.machines.session import describe_cluster, describe_free, describe_request, places_for
from cluster.settings import ClusterSettings
from cluster.tables.commit import Commit
from cluster.tables.plan import Shard
from cluster.workers.actor import Done, Job, ShardActor
from cluster.workers.failures import Failure, cause_of_death
from cluster.workers.handover import Processes, wait_until_gone
from cluster.workers.member import IN_FLIGHT, Member
from cluster.workers.stage import Stage
from cluster.workers.stage_log import StageLog
from cluster.workers.tasks import ALIKE, Attempt, Finished, Split, Tasks

TICK_S = 0.5  # longest wait for a result before time limits are checked
CAPACITY_S = 2.0  # how often the nodes of the cluster are counted


class Pool:
    """The workers of one stage. It is a context manager: leaving it ends them and waits until their resources are free.

    A monitor may read its `members`, `tasks`, `slots` and `durations` (units and seconds of the latest tasks) while it
    runs.
    """

    def __init__(self, stage: Stage, job: Job, settings: ClusterSettings, log: StageLog) -> None:
        self.job = job
        self.pool = pool = stage.pool
        self.settings = settings
        self.log = log
        self.members: list[Member] = []
        # a reference inside a list: Ray passes it on as it is, and the actor gets the object itself
        self._payload = [ray.put((stage.worker, stage.arguments))]
        self.durations: deque[tuple[int, float]] = deque(maxlen=512)
        self.tasks = Tasks([], settings.shard_attempts)
        self._calls: dict[Any, tuple[str, Member]] = {}
        self._processes = Processes()
        self._held = {"GPU": pool.gpus, **pool.resources}
        self._available_before = ray.available_resources()
        self._started_count = 0
        self._failed_starts = 0
        self._last_ready = time.monotonic()
        self._capacity = 0
        self._capacity_read_at = 0.0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._end_workers(graceful=kind is None)
        except RunError:
            if kind is None:
                raise  # otherwise the error that is being raised already says more

    @property
    def slots(self) -> int:
        """The number of tasks that are processed at a time, if enough are waiting."""
        return sum(IN_FLIGHT if member.is_async else 1 for member in self.members if member.ready)

    # ---- the loop

    def run(self, shards: list[Shard]) -> Iterator[Commit | Split | None]:
        """Does the shards, in any order. Yields each finished shard, and None after every round of the loop.

        Raises:
            InputError, RunError, DamagedError: as `cluster/workers/failures.py` says.
            RunError: no worker was ready within the time limit.
        """
        self.tasks = Tasks(shards, self.settings.shard_attempts)
        outstanding = len(shards)
        while outstanding:
            self._start_workers(outstanding)
            self._dispatch()
            finished: Finished = []
            for ref in self._ended_calls():
                if ref in self._calls:  # a call of a worker that was found dead in this round is removed already
                    finished += self._handle_result(ref)
            finished += self._check_time_limits()
            outstanding -= len(finished)
            yield from finished
            yield None

    def _ended_calls(self) -> list[Any]:
        """References of the calls that have ended. Waits up to `TICK_S` for the first one."""
        refs = list(self._calls)
        if not refs:
            time.sleep(0.05)
            return []
        if not ray.wait(refs, num_returns=1, timeout=TICK_S)[0]:
            return []
        return ray.wait(refs, num_returns=len(refs), timeout=0)[0]

    def _start_workers(self, outstanding: int) -> None:
        """Starts workers up to the number of the recipe, but no more than there are shards or places for them."""
        now = time.monotonic()
        if now - self._capacity_read_at > CAPACITY_S:  # nodes may have joined or left
            self._capacity_read_at, self._capacity = now, places_for(self.pool)
        wanted = min(self.pool.workers or self._capacity, outstanding, max(self._capacity, 1))
        while len(self.members) < wanted:
            name = f"w{self._started_count}"
            self._started_count += 1
            actor = (
                ray.remote(ShardActor)
                .options(
                    num_cpus=self.pool.cores,
                    num_gpus=self.pool.gpus,
                    resources=self.pool.resources,
                    max_restarts=0,
                    max_task_retries=0,
                )
                .remote(self.job, name, self._payload)
            )
            member = Member(name, actor)
            self.members.append(member)
            self._calls[member.actor.place.remote()] = ("place", member)
            self._calls[member.actor.start.remote()] = ("start", member)

    def _dispatch(self) -> None:
        """Sends waiting tasks to workers: first one task to every worker, then a second one."""
        for depth in range(IN_FLIGHT):
            # one task is left for every worker that has none yet, before another worker gets a second one
            reserved = sum(not member.in_flight for member in self.members) if depth else 0
            for member in self.members:
                if len(self.tasks.queue) <= reserved:
                    break
                has_suspect = any(attempt.suspect for attempt in member.in_flight.values())
                if member.ready and len(member.in_flight) == depth and not has_suspect:
                    # a suspect waits until it can have a worker alone
                    attempt = next((waiting for waiting in self.tasks.queue if not (depth and waiting.suspect)), None)
                    if attempt:
                        self.tasks.queue.remove(attempt)
                        self._calls[member.submit(attempt)] = ("run", member)

    def _handle_result(self, ref: Any) -> Finished:
        """Handles the end of a call of a worker; returns the shards that are finished by it."""
        kind, member = self._calls.pop(ref)
        try:
            result = ray.get(ref)
        except (
            RayActorError,
            OutOfMemoryError,
        ) as error:  # Ray ends workers when a node has no memory left
            return self._handle_death(member, cause_of_death(error))
        if kind == "place":
            member.place = result
            self._processes.add(result, [result.process])
            return []
        if kind == "start":
            return self._started(member, result)
        attempt = member.in_flight.pop(ref)
        if not member.is_async:
            for other in member.in_flight.values():  # the worker begins to process it only now
                other.running_since = time.monotonic()
        if isinstance(result, Done):
            return self._done(member, attempt, result)
        return self._failure(member, attempt, result)

    def _started(self, member: Member, result: Any) -> Finished:
        if isinstance(result, Failure):
            self._event(member, None, f"could not start: {result.error}", result.log)
            result.raise_if_final()
            return self._handle_death(member, result.error)
        member.is_async, children = result
        member.ready = True
        if member.place:
            self._processes.add(member.place, children)
        self._last_ready = time.monotonic()
        self._failed_starts = 0
        self._event(member, None, "ready")
        return []

    # ---- how tasks end

    def _done(self, member: Member, attempt: Attempt, result: Done) -> Finished:
        commit = result.commit
        if member.place:
            self._processes.add(member.place, result.children)
        duration = commit.units, time.monotonic() - attempt.running_since  # includes reading, waiting and writing
        member.durations.append(duration)
        self.durations.append(duration)
        self._event(member, attempt, f"done: {commit.rows} rows in {commit.seconds:.2f} s", result.log)
        return self.tasks.done(attempt, commit)

    def _failure(self, member: Member, attempt: Attempt, failure: Failure) -> Finished:
        self._event(member, attempt, f"{failure.kind}: {failure.error}", failure.log)
        failure.raise_if_final()
        finished = self.tasks.charge(attempt, failure.error)
        if error := self.tasks.common_error:
            raise RunError(
                f"stage {self.job.stage}: the first {ALIKE} rows all failed with one error, so the cause is not in the "
                f"rows: {error}. Look at the stage's log in the workdir, correct the model or the recipe, and run the "
                "same command again: it continues here."
            )
        return finished

    def _handle_death(self, member: Member, cause: str) -> Finished:
        """Removes a worker that died, and charges its death to all tasks it had in flight."""
        self._remove(member)
        if not member.ready:
            self._failed_starts += 1
            if self._failed_starts >= self.settings.shard_attempts:
                raise RunError(f"stage {self.job.stage}: {self._failed_starts} workers could not start, last: {cause}")
        finished: Finished = []
        for attempt in reversed(list(member.in_flight.values())):
            self._event(member, attempt, f"worker died: {cause}")
            attempt.suspect = True
            finished += self.tasks.charge(attempt, f"its worker died: {cause}")
        if not member.in_flight:
            self._event(member, None, f"worker died: {cause}")
        return finished

    def _remove(self, member: Member) -> None:
        self.members.remove(member)
        for call in [call for call, (_, owner) in self._calls.items() if owner is member]:
            del self._calls[call]
        ray.kill(member.actor, no_restart=True)

    # ---- time limits

    def _check_time_limits(self) -> Finished:
        """Ends workers whose task takes too long, and the run if no worker was ready for too long."""
        now = time.monotonic()
        finished: Finished = []
        for member in list(self.members):
            for attempt in member.at_work:
                if now - attempt.running_since > self._limit_s(attempt) and not self._is_excused(member, attempt):
                    finished += self._end_hung(member, attempt)
                    break
        if not any(member.ready for member in self.members):
            self._check_start_limit(now)
        else:
            self._last_ready = now
        return finished

    def _is_excused(self, member: Member, attempt: Attempt) -> bool:
        """Whether a late task has just ended, or is late because a storage failed: its time counts from the answer."""
        if member.has_result(attempt):
            return True
        waited_at = time.monotonic() - member.seconds_since_retry()
        attempt.running_since = max(attempt.running_since, waited_at)
        return time.monotonic() - attempt.running_since <= self._limit_s(attempt)

    def _limit_s(self, attempt: Attempt) -> float:
        """The time limit of a task. A part of a shard gets its share, but at least an eighth: some costs are fixed."""
        share = (attempt.stop - attempt.start) / max(attempt.shard.rows, 1)
        return self.settings.shard_timeout_s * max(share, 0.125)

    def _end_hung(self, member: Member, hung: Attempt) -> Finished:
        """Ends a worker whose task hangs. The hung task is charged; its other tasks return to the queue."""
        self._remove(member)
        finished: Finished = []
        for attempt in reversed(list(member.in_flight.values())):
            if attempt is hung:
                limit_s = self._limit_s(attempt)
                self._event(member, attempt, f"hung: no result after {limit_s:g} s; its worker was ended")
                # a task is cut after its first hang; only a single row is tried again
                finished += self.tasks.charge(attempt, f"no result after {limit_s:g} s", cut_now=True)
            else:
                self.tasks.put_back(attempt)
        return finished

    def _check_start_limit(self, now: float) -> None:
        waited = now - self._last_ready
        if waited < self.settings.wait_timeout_s:
            return
        since_retry = min((member.seconds_since_retry() for member in self.members if member.place), default=math.inf)
        if since_retry < self.settings.wait_timeout_s:
            self._last_ready = now - since_retry
            return
        unplaced = [member.name for member in self.members if member.place is None]
        what = "be placed" if unplaced else "load its worker"
        raise RunError(
            f"stage {self.job.stage}: waited {waited:.0f} s for a worker to {what} ({describe_request(self.pool)}). "
            f"{describe_cluster()} Free now: {describe_free()}. Raise cluster.wait_timeout_s if this is normal here."
        )

    # ---- the end

    def _end_workers(self, graceful: bool) -> None:
        """Closes the workers if `graceful`, kills their processes and waits until their resources are free."""
        stops = {member.actor.stop.remote(): member for member in self.members if graceful and member.ready}
        for ref in ray.wait(list(stops), num_returns=len(stops), timeout=10.0)[0] if stops else []:
            member = stops[ref]
            try:
                if member.place:
                    self._processes.add(member.place, ray.get(ref))
            except RayError as error:
                self._event(member, None, f"did not close: {error}")
        for member in self.members:
            ray.kill(member.actor, no_restart=True)
        self.members = []
        self._calls = {}
        wait_until_gone(self.job, self._processes, self._held, self._available_before, self.settings)

    def _event(self, member: Member, attempt: Attempt | None, text: str, log: list[str] | None = None) -> None:
        lines = "\n".join([*(log or []), text])
        self.log.add(lines, member.name, member.node, attempt.name if attempt else "-")
