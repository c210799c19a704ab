"""A member of a pool: one worker process, as the driver knows it."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.workers.actor import Place
from cluster.workers.tasks import Attempt

IN_FLIGHT = 2  # tasks that are with a worker at a time


@dataclass(eq=False)
class Member:
    """A worker process as the driver knows it.

    Attributes:
        name: "w0", "w1", …
        actor: the Ray handle of its `ShardActor`.
        place: where it runs; None until Ray has placed it.
        ready: whether its worker is constructed.
        is_async: whether its worker does several tasks at a time.
        in_flight: the tasks that were sent to it, by the Ray reference of their result.
        durations: units and seconds of its latest tasks.
    """

    name: str
    actor: Any
    place: Place | None = None
    ready: bool = False
    is_async: bool = False
    in_flight: dict[Any, Attempt] = field(default_factory=dict)
    durations: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=32))

    @property
    def at_work(self) -> list[Attempt]:
        """The tasks that it is processing. A worker that does one task at a time only reads the rows of the other."""
        return list(self.in_flight.values())[: None if self.is_async else 1]

    @property
    def node(self) -> str:
        """The name of its node, for logs; "-" until it is placed."""
        return self.place.node if self.place else "-"

    def submit(self, attempt: Attempt) -> Any:
        """Sends it a task; returns the Ray reference of the result."""
        attempt.tries += 1
        attempt.running_since = time.monotonic()
        ref = self.actor.run.remote(attempt.shard, attempt.start, attempt.stop, attempt.tries)
        self.in_flight[ref] = attempt
        return ref

    def has_result(self, attempt: Attempt) -> bool:
        """Whether the result of a task in flight has arrived."""
        ref = next(ref for ref, other in self.in_flight.items() if other is attempt)
        return bool(ray.wait([ref], timeout=0)[0])

    def seconds_since_retry(self) -> float:
        """Seconds since it last waited for a storage that failed: 0 while it does, infinite if it never did.

        Infinite, too, if it does not answer within two seconds, or is dead.
        """
        try:
            return ray.get(self.actor.seconds_since_retry.remote(), timeout=2.0)
        except RayError:
            return math.inf
