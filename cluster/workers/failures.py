"""Every way in which a task or a worker can end badly, and what becomes of it.

| what happened | kind | who is charged | what is done |
|---|---|---|---|
| an InputError | input | a person | the run ends, exit code 2 |
| a DamagedError: an input file is not what was committed | damaged | nobody | that file's shard is done again first |
| a RunError: units lost, storage refused for too long | run | nobody | the run ends, exit code 1 |
| anything else, while rows were processed | row | the task | tried again, then cut in two, then its row is rejected |
| anything else, while rows were read or written | run | nobody | the run ends, exit code 1 |
| anything else, while the worker was constructed | start | the worker | replaced; after `shard_attempts` the run ends |
| the process died, or Ray's memory monitor ended it | – | all it had in flight | as `row`, but each of them alone |
| no result in time (and no storage that refuses) | – | the task | the worker is ended; as `row`, but cut at once |

The first six happen in a worker's process, and reach the driver as a `Failure` (`cluster/workers/actor.py`). The last
two the driver sees by itself (`cluster/workers/pool.py`); `cluster/workers/tasks.py` does the trying again, cutting and
rejecting.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import Literal

from ray.exceptions import RayError

from cluster.disclosure import disclose
from cluster.errors import DamagedError, InputError, RunError

Kind = Literal["input", "damaged", "run", "row", "start"]


@dataclass(frozen=True)
class Failure:
    """How something ended that a worker was asked for; `path` names the damaged file, `log` is for the stage's log."""

    kind: Kind
    error: str
    path: str = ""
    log: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, error: Exception, otherwise: Kind, where: str, log: list[str]) -> Failure:
        """Classifies an exception that is being handled; `otherwise` is the kind of one that nobody foresaw."""
        match error:
            case InputError():
                return cls("input", str(error), log=log)
            case DamagedError():
                return cls("damaged", error.damage, error.path, log)
            case RunError():
                return cls("run", str(error), log=log)
        text = describe(error)
        log = [*log, *disclose(traceback.format_exc()).splitlines()]
        return cls(otherwise, f"{where}: {text}" if otherwise == "run" else text, log=log)

    def end_run(self) -> None:
        """Raises what ends the run, or has a damaged shard done again; returns where the run goes on."""
        match self.kind:
            case "input":
                raise InputError(self.error)
            case "damaged":
                raise DamagedError(self.path, self.error)
            case "run":
                raise RunError(self.error)


def describe(error: BaseException) -> str:
    """An exception in one line."""
    text = disclose(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__


def cause_of_death(error: RayError) -> str:
    """Why a process died, without the ids in Ray's message, so that equal causes read equal."""
    text = " ".join(str(error).split())
    for before in ("Worker exit detail: ", "The actor is dead because "):
        if before in text:
            return text.split(before, 1)[1].split(". ")[0][:200]
    return text[:200]
