"""Failures: every way in which a task or a worker can fail, and what the run then does.

| what happened | kind | who is charged | what is done |
|---|---|---|---|
| an InputError | input | the user | the run ends, exit code 2 |
| a DamagedError: an input file is not the committed one | damaged | nobody | that file's shard is done again first |
| a RunError: units lost, storage failed for too long | run | nobody | the run ends, exit code 1 |
| another exception in processing rows | row | the task | tried again, then cut in two, then its row is rejected |
| another exception in reading or writing rows | run | nobody | the run ends, exit code 1 |
| another exception in constructing the worker | start | the worker | replaced; after `shard_attempts` the run ends |
| the process died, or Ray's memory monitor ended it | – | its tasks in flight | as `row`, but each has a worker alone |
| no result in time, and storage does not fail | – | the task | the worker is ended; as `row`, but cut at once |

The first six happen in a worker's process and reach the driver as a `Failure` (`cluster/workers/actor.py`). The driver
itself notices the last two (`cluster/workers/pool.py`). `cluster/workers/tasks.py` tries tasks again, cuts them and
rejects rows.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import Literal

from ray.exceptions import RayError

from cluster.disclosure import disclose
from cluster.errors import DamagedError, InputError, RunError
from cluster.machines.ray_errors import plain

Kind = Literal["input", "damaged", "run", "row", "start"]


@dataclass(frozen=True)
class Failure:
    """The failure of a call of a worker.

    Attributes:
        kind: the row of the table above.
        error: the message, in one line for kinds `row` and `start`.
        path: the damaged file, for kind `damaged`.
        log: lines for the stage's log.
    """

    kind: Kind
    error: str
    path: str = ""
    log: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, error: Exception, default_kind: Kind, place: str, log: list[str]) -> Failure:
        """The failure for an exception that is being handled.

        Args:
            error: the exception.
            default_kind: the kind of any exception that is none of our own errors.
            place: stage, shard and rows, for the message of kind `run`.
            log: what the worker logged.
        """
        match error:
            case InputError():
                return cls("input", str(error), log=log)
            case DamagedError():
                return cls("damaged", error.damage, error.path, log)
            case RunError():
                return cls("run", str(error), log=log)
        text = describe(error)
        log = [*log, *disclose(traceback.format_exc()).splitlines()]
        return cls(default_kind, f"{place}: {text}" if default_kind == "run" else text, log=log)

    def raise_if_final(self) -> None:
        """Raises the error of kinds `input`, `damaged` and `run`; does nothing for `row` and `start`.

        Raises:
            InputError, RunError: the run ends.
            DamagedError: a shard must be done again first.
        """
        match self.kind:
            case "input":
                raise InputError(self.error)
            case "damaged":
                raise DamagedError(self.path, self.error)
            case "run":
                raise RunError(self.error)


def describe(error: BaseException) -> str:
    """An exception as one line of text, at most 500 characters."""
    text = disclose(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__


def cause_of_death(error: RayError) -> str:
    """The cause of a process's death, without the ids in Ray's message, so that equal causes have equal texts."""
    text = " ".join(plain(str(error)).split())
    for prefix in ("Worker exit detail: ", "The actor is dead because "):
        if prefix in text:
            return text.split(prefix, 1)[1].split(". ")[0][:200]
    return text[:200]
