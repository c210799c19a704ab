"""The scheduler: keeps workers alive and fed until every shard is done, and finds the rows that cannot be done.

The driver moves shard names, never rows. A worker has two tasks in flight, so that it never waits between shards. A
task that fails is tried again; after `shard_attempts` failures it is cut in two, and again, until the culprit row
stands alone and becomes a reject. A task that was in flight when a worker died runs alone from then on, so that the
next death shows which of the two was to blame.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError

from cluster.actor import Done, Failure, Job, Place, ShardActor
from cluster.errors import DamagedError, InputError, RunError
from cluster.handover import Processes, wait_until_gone
from cluster.log import Event
from cluster.session import describe_cluster, describe_request, free, places_for
from cluster.settings import ClusterSettings
from cluster.stage import Stage
from cluster.storage import storage_failed
from cluster.tables import Commit, Shard
from cluster.tasks import Attempt, Finished, Split, Tasks

IN_FLIGHT = 2
TICK_S = 0.5


@dataclass(eq=False)
class Member:
    """A worker process as the driver knows it."""

    name: str
    actor: Any
    born: float
    place: Place | None = None
    ready: bool = False
    is_async: bool = False
    in_flight: dict[Any, Attempt] = field(default_factory=dict)
    taken: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=32))

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

    While it runs, its `members`, `tasks`, `slots` and `taken` (units and seconds of the latest tasks) may be looked at.
    """

    def __init__(self, stage: Stage, job: Job, settings: ClusterSettings, log: Callable[[Event], None]) -> None:
        self.job = job
        self.pool = pool = stage.pool
        self.settings = settings
        self.log = log
        self.members: list[Member] = []
        self._payload = [ray.put((stage.worker, stage.arguments))]
        self.taken: deque[tuple[int, float]] = deque(maxlen=512)
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
        self._storage_failing_since: float | None = None
        self._not_before = 0.0

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
            InputError, RunError, DamagedError: see the module's text and `Failure`.
        """
        self.tasks = Tasks(shards, self.settings.shard_attempts)
        outstanding = len(shards)
        while outstanding:
            self._hire(outstanding)
            self._dispatch()
            refs = list(self._calls)
            ready, _ = ray.wait(refs, num_returns=1, timeout=TICK_S) if refs else ([], [])
            if ready and len(refs) > 1:
                ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            elif not refs:
                time.sleep(0.05)
            for ref in ready:
                if ref not in self._calls:  # its worker was found dead through another call
                    continue
                for finished in self._settle(ref):
                    outstanding -= 1
                    yield finished
            for finished in self._check_time():
                outstanding -= 1
                yield finished
            yield None

    def _hire(self, outstanding: int) -> None:
        """Keeps as many workers as are wanted, useful and placeable; new nodes are noticed within seconds."""
        now = time.monotonic()
        if now < self._not_before:
            return
        if now - self._looked > 2.0:
            self._looked, self._capacity = now, places_for(self.pool)
        wanted = min(self.pool.workers or self._capacity, outstanding, max(self._capacity, 1))
        while len(self.members) < wanted:
            member = Member(f"w{self._count}", None, now)
            self._count += 1
            member.actor = (
                ray.remote(ShardActor)
                .options(
                    num_cpus=self.pool.cpus,
                    num_gpus=self.pool.gpus,
                    resources=self.pool.resources,
                    max_restarts=0,
                    max_task_retries=0,
                )
                .remote(self.job, member.name, self._payload)
            )
            self.members.append(member)
            self._calls[member.actor.place.remote()] = ("place", member)
            self._calls[member.actor.start.remote()] = ("start", member)

    def _dispatch(self) -> None:
        """First one task for everybody, then a second."""
        if time.monotonic() < self._not_before:
            return
        for depth in range(IN_FLIGHT):
            # a second task must not be taken from a worker that is idle or about to be ready
            waiting = sum(not member.in_flight for member in self.members) if depth else 0
            for member in self.members:
                if len(self.tasks.queue) <= waiting:
                    break
                busy = any(attempt.alone for attempt in member.in_flight.values())
                if member.ready and len(member.in_flight) == depth and not busy:
                    index = 0
                    if member.in_flight:  # a suspect waits for a worker of its own
                        index = next((i for i, a in enumerate(self.tasks.queue) if not a.alone), -1)
                    if index >= 0:
                        attempt = self.tasks.queue[index]
                        del self.tasks.queue[index]
                        self._send(member, attempt)

    def _send(self, member: Member, attempt: Attempt) -> None:
        attempt.tries += 1
        attempt.clock = time.monotonic()
        ref = member.actor.run.remote(attempt.shard, attempt.start, attempt.stop, attempt.tries)
        member.in_flight[ref] = attempt
        self._calls[ref] = ("run", member)

    def _settle(self, ref: Any) -> Finished:
        kind, member = self._calls.pop(ref)
        try:
            result = ray.get(ref)
        except (RayActorError, OutOfMemoryError) as error:  # the latter: ended by Ray, for its node ran out of memory
            return self._bury(member, _cause(error), ref)
        if kind == "place":
            member.place = result
            self._processes.add(result, [result.process])
            return []
        if kind == "start":
            return self._started(member, result)
        attempt = member.in_flight.pop(ref)
        if not member.is_async:
            for other in member.in_flight.values():  # only now it has the worker to itself
                other.clock = time.monotonic()
        if isinstance(result, Done):
            return self._done(member, attempt, result)
        return self._failure(member, attempt, result)

    def _started(self, member: Member, result: Any) -> Finished:
        if isinstance(result, Failure):
            self._event(member, None, f"could not start: {result.error}", result.log)
            if result.kind == "input":
                raise InputError(result.error)
            if result.kind == "damaged":
                raise DamagedError(result.path, result.error)
            if result.kind == "storage":
                self._remove(member)
                self._ride_out(result.error)
                return []
            return self._bury(member, result.error, None)
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
        self._storage_failing_since = None
        if member.place:
            self._processes.add(member.place, result.children)
        taken = commit.units, time.monotonic() - attempt.clock  # with reading, waiting and writing
        member.taken.append(taken)
        self.taken.append(taken)
        self._event(member, attempt, f"done: {commit.rows} rows in {commit.seconds:.2f} s", result.log)
        return self.tasks.done(attempt, commit)

    def _failure(self, member: Member, attempt: Attempt, failure: Failure) -> Finished:
        self._event(member, attempt, f"{failure.kind}: {failure.error}", failure.log)
        if failure.kind == "input":
            raise InputError(failure.error)
        if failure.kind == "damaged":
            raise DamagedError(failure.path, failure.error)
        if failure.kind == "bug":
            raise RunError(failure.error)
        if failure.kind == "storage":
            self.tasks.again(attempt)
            self._ride_out(failure.error)
            return []
        return self.tasks.blame(attempt, failure.error)

    def _ride_out(self, error: str) -> None:
        """Storage that fails is no row's fault: wait longer and longer, up to the time limit."""
        now = time.monotonic()
        self._storage_failing_since = self._storage_failing_since or now
        failing = now - self._storage_failing_since
        if failing > self.settings.storage_timeout_s:
            raise storage_failed(self.job.storage_url, failing, error)
        self._not_before = now + min(0.2 + failing / 2, 30.0)

    def _bury(self, member: Member, cause: str, ref: Any) -> Finished:
        """Removes a worker that died, and decides what becomes of its tasks."""
        if member not in self.members:
            return []
        self._remove(member)
        if not member.ready:
            self._failed_starts += 1
            if self._failed_starts >= self.settings.shard_attempts:
                raise RunError(f"stage {self.job.stage}: {self._failed_starts} workers could not start, last: {cause}")
        finished: Finished = []
        for attempt in reversed(list(member.in_flight.values())):
            self._event(member, attempt, f"worker died: {cause}")
            attempt.alone = True
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
            hung = [a for a in member.at_work if now - a.clock > self._limit(a)]
            if hung:
                finished += self._end_hung(member, hung[0])
        if not any(member.ready for member in self.members):
            self._check_start(now)
        else:
            self._last_ready = now
        return finished

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
        unplaced = [member.name for member in self.members if member.place is None]
        what = "be placed" if unplaced else "load its worker"
        raise RunError(
            f"stage {self.job.stage}: waited {waited:.0f} s for a worker to {what} ({describe_request(self.pool)}). "
            f"{describe_cluster()} Free now: {free()}. Raise cluster.wait_timeout_s if this is normal here."
        )

    # ---- leaving

    def _leave(self, graceful: bool) -> None:
        stops = [member.actor.stop.remote() for member in self.members if graceful and member.ready]
        owners = [member for member in self.members if graceful and member.ready]
        if stops:
            done, _ = ray.wait(stops, num_returns=len(stops), timeout=10.0)
            for ref, member in zip(stops, owners, strict=True):
                if ref in done and member.place:
                    try:
                        self._processes.add(member.place, ray.get(ref))
                    except RayError as error:
                        self._event(member, None, f"did not close: {error}")
        for member in self.members:
            ray.kill(member.actor, no_restart=True)
        self.members = []
        self._calls = {}
        wait_until_gone(self.job, self._processes, self._held, self._before, self.settings)

    def _event(self, member: Member, attempt: Attempt | None, text: str, log: list[str] | None = None) -> None:
        for line in [*(log or []), text]:
            self.log(Event(line, member.name, member.node, attempt.name if attempt else "-"))


def _cause(error: RayError) -> str:
    """Why a process died, without the ids in Ray's message, so that equal causes read equal."""
    text = " ".join(str(error).split())
    for before in ("Worker exit detail: ", "The actor is dead because "):
        if before in text:
            return text.split(before, 1)[1].split(". ")[0][:200]
    return text[:200]
