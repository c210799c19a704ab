"""The scheduler: keeps workers alive and fed until every shard is done.

The driver moves shard names, never rows. A worker has two tasks in flight, so that it never waits between shards. What
becomes of a task that fails is said in `cluster/workers/failures.py` and done in `cluster/workers/tasks.py`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError

from cluster.errors import RunError
from cluster.machines.session import describe_cluster, describe_free, describe_request, places_for
from cluster.settings import ClusterSettings
from cluster.tables.commit import Commit
from cluster.tables.plan import Shard
from cluster.workers.actor import Done, Job, Place, ShardActor
from cluster.workers.failures import Failure, cause_of_death
from cluster.workers.handover import Processes, wait_until_gone
from cluster.workers.stage import Stage
from cluster.workers.stage_log import StageLog
from cluster.workers.tasks import Attempt, Finished, Split, Tasks

IN_FLIGHT = 2
TICK_S = 0.5


@dataclass(eq=False)
class Member:
    """A worker process as the driver knows it."""

    name: str
    actor: Any
    place: Place | None = None
    ready: bool = False
    is_async: bool = False
    in_flight: dict[Any, Attempt] = field(default_factory=dict)
    durations: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=32))

    @property
    def at_work(self) -> list[Attempt]:
        """Its tasks that are being done: of a worker that does one at a time, the other is only read."""
        return list(self.in_flight.values())[: None if self.is_async else 1]

    @property
    def node(self) -> str:
        """For logs."""
        return self.place.node if self.place else "-"


class Pool:
    """Workers of one stage. A context: leaving it ends them and waits until their resources are free.

    While it runs, its `members`, `tasks`, `slots` and `durations` (units and seconds of the latest tasks) may be
    looked at.
    """

    def __init__(self, stage: Stage, job: Job, settings: ClusterSettings, log: StageLog) -> None:
        self.job = job
        self.pool = pool = stage.pool
        self.settings = settings
        self.log = log
        self.members: list[Member] = []
        self._payload = [ray.put((stage.worker, stage.arguments))]  # in a list Ray leaves it to the actor to get it
        self.durations: deque[tuple[int, float]] = deque(maxlen=512)
        self.tasks = Tasks([], settings.shard_attempts)
        self._calls: dict[Any, tuple[str, Member]] = {}
        self._processes = Processes()
        self._held = {"GPU": pool.gpus, **pool.resources}
        self._before = ray.available_resources()
        self._count = 0
        self._failed_starts = 0
        self._last_ready = time.monotonic()
        self._looked = 0.0
        self._capacity = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._leave(graceful=kind is None)
        except RunError:
            if kind is None:
                raise  # else the error that is already on its way says more

    @property
    def slots(self) -> int:
        """Tasks that are being done at a time, when there are enough."""
        return sum(IN_FLIGHT if member.is_async else 1 for member in self.members if member.ready)

    # ---- the loop

    def run(self, shards: list[Shard]) -> Iterator[Commit | Split | None]:
        """Does the shards in any order; yields what became of each, and None whenever it is worth a look at the pool.

        Raises:
            InputError, RunError, DamagedError: as `cluster/workers/failures.py` says; or no worker is there in time.
        """
        self.tasks = Tasks(shards, self.settings.shard_attempts)
        outstanding = len(shards)
        while outstanding:
            self._hire(outstanding)
            self._dispatch()
            finished = [one for ref in self._ready() if ref in self._calls for one in self._settle(ref)]
            finished += self._check_time()
            outstanding -= len(finished)
            yield from finished
            yield None

    def _ready(self) -> list[Any]:
        """Calls that are over; waits a while for the first. One of a worker found dead meanwhile is no longer known."""
        refs = list(self._calls)
        if not refs:
            time.sleep(0.05)
            return []
        if not ray.wait(refs, num_returns=1, timeout=TICK_S)[0]:
            return []
        return ray.wait(refs, num_returns=len(refs), timeout=0)[0]

    def _hire(self, outstanding: int) -> None:
        """Keeps as many workers as are wanted, useful and placeable; new nodes are noticed within seconds."""
        now = time.monotonic()
        if now - self._looked > 2.0:
            self._looked, self._capacity = now, places_for(self.pool)
        wanted = min(self.pool.workers or self._capacity, outstanding, max(self._capacity, 1))
        while len(self.members) < wanted:
            name = f"w{self._count}"
            self._count += 1
            actor = (
                ray.remote(ShardActor)
                .options(
                    num_cpus=self.pool.cpus,
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
        """First one task for everybody, then a second."""
        for depth in range(IN_FLIGHT):
            # a second task must not be taken from a worker that is idle or about to be ready
            waiting = sum(not member.in_flight for member in self.members) if depth else 0
            for member in self.members:
                if len(self.tasks.queue) <= waiting:
                    break
                busy = any(attempt.suspect for attempt in member.in_flight.values())
                if member.ready and len(member.in_flight) == depth and not busy:
                    # a suspect waits for a worker of its own
                    attempt = next((each for each in self.tasks.queue if not (depth and each.suspect)), None)
                    if attempt:
                        self.tasks.queue.remove(attempt)
                        self._send(member, attempt)

    def _send(self, member: Member, attempt: Attempt) -> None:
        attempt.tries += 1
        attempt.running_since = time.monotonic()
        ref = member.actor.run.remote(attempt.shard, attempt.start, attempt.stop, attempt.tries)
        member.in_flight[ref] = attempt
        self._calls[ref] = ("run", member)

    def _settle(self, ref: Any) -> Finished:
        kind, member = self._calls.pop(ref)
        try:
            result = ray.get(ref)
        except (RayActorError, OutOfMemoryError) as error:  # the latter: ended by Ray, for its node ran out of memory
            return self._bury(member, cause_of_death(error))
        if kind == "place":
            member.place = result
            self._processes.add(result, [result.process])
            return []
        if kind == "start":
            return self._started(member, result)
        attempt = member.in_flight.pop(ref)
        if not member.is_async:
            for other in member.in_flight.values():  # only now it has the worker to itself
                other.running_since = time.monotonic()
        if isinstance(result, Done):
            return self._done(member, attempt, result)
        return self._failure(member, attempt, result)

    def _started(self, member: Member, result: Any) -> Finished:
        if isinstance(result, Failure):
            self._event(member, None, f"could not start: {result.error}", result.log)
            result.end_run()
            return self._bury(member, result.error)
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
        duration = commit.units, time.monotonic() - attempt.running_since  # with reading, waiting and writing
        member.durations.append(duration)
        self.durations.append(duration)
        self._event(member, attempt, f"done: {commit.rows} rows in {commit.seconds:.2f} s", result.log)
        return self.tasks.done(attempt, commit)

    def _failure(self, member: Member, attempt: Attempt, failure: Failure) -> Finished:
        self._event(member, attempt, f"{failure.kind}: {failure.error}", failure.log)
        failure.end_run()
        return self.tasks.blame(attempt, failure.error)

    def _bury(self, member: Member, cause: str) -> Finished:
        """Removes a worker that died, and charges its death to its tasks."""
        self._remove(member)
        if not member.ready:
            self._failed_starts += 1
            if self._failed_starts >= self.settings.shard_attempts:
                raise RunError(f"stage {self.job.stage}: {self._failed_starts} workers could not start, last: {cause}")
        finished: Finished = []
        for attempt in reversed(list(member.in_flight.values())):
            self._event(member, attempt, f"worker died: {cause}")
            attempt.suspect = True
            finished += self.tasks.blame(attempt, f"its worker died: {cause}")
        if not member.in_flight:
            self._event(member, None, f"worker died: {cause}")
        return finished

    def _remove(self, member: Member) -> None:
        self.members.remove(member)
        for call in [call for call, (_, owner) in self._calls.items() if owner is member]:
            del self._calls[call]
        ray.kill(member.actor, no_restart=True)

    # ---- time limits

    def _check_time(self) -> Finished:
        now = time.monotonic()
        finished: Finished = []
        for member in list(self.members):
            for attempt in member.at_work:
                if now - attempt.running_since > self._limit(attempt) and not self._is_excused(member, attempt):
                    finished += self._end_hung(member, attempt)
                    break
        if not any(member.ready for member in self.members):
            self._check_start(now)
        else:
            self._last_ready = now
        return finished

    def _is_excused(self, member: Member, attempt: Attempt) -> bool:
        """Whether a task that is late has its result here by now, or waits for a storage that refuses."""
        ref = next(ref for ref, other in member.in_flight.items() if other is attempt)
        if ray.wait([ref], timeout=0)[0]:
            return True
        if self._rides_out(member):
            attempt.running_since = time.monotonic()
            return True
        return False

    def _rides_out(self, member: Member) -> bool:
        try:
            return ray.get(member.actor.is_retrying.remote(), timeout=2.0)
        except RayError:  # it does not answer, or is dead
            return False

    def _limit(self, attempt: Attempt) -> float:
        """A part gets its share of the time, but no less than an eighth: some of it may be the same for any size."""
        share = (attempt.stop - attempt.start) / max(attempt.shard.rows, 1)
        return self.settings.shard_timeout_s * max(share, 0.125)

    def _end_hung(self, member: Member, hung: Attempt) -> Finished:
        self._remove(member)
        finished: Finished = []
        for attempt in reversed(list(member.in_flight.values())):
            if attempt is hung:
                limit = self._limit(attempt)
                self._event(member, attempt, f"hung: no result after {limit:g} s; its worker was ended")
                # one hang is proof enough to cut a task; only a single row is given more chances
                finished += self.tasks.blame(attempt, f"no result after {limit:g} s", cut_now=True)
            else:
                self.tasks.again(attempt)
        return finished

    def _check_start(self, now: float) -> None:
        waited = now - self._last_ready
        if waited < self.settings.wait_timeout_s:
            return
        if any(member.place and self._rides_out(member) for member in self.members):
            self._last_ready = now
            return
        unplaced = [member.name for member in self.members if member.place is None]
        what = "be placed" if unplaced else "load its worker"
        raise RunError(
            f"stage {self.job.stage}: waited {waited:.0f} s for a worker to {what} ({describe_request(self.pool)}). "
            f"{describe_cluster()} Free now: {describe_free()}. Raise cluster.wait_timeout_s if this is normal here."
        )

    # ---- leaving

    def _leave(self, graceful: bool) -> None:
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
        wait_until_gone(self.job, self._processes, self._held, self._before, self.settings)

    def _event(self, member: Member, attempt: Attempt | None, text: str, log: list[str] | None = None) -> None:
        lines = "\n".join([*(log or []), text])
        self.log.add(lines, member.name, member.node, attempt.name if attempt else "-")
