"""Errors of Ray in words: what happened to the run, and what to do. Ray's own texts are for those who develop Ray."""

from __future__ import annotations

import re
import sys
import traceback

from cluster.disclosure import disclose
from cluster.errors import ListwiseError, RunError

CONTINUES = "What is done is kept; the same command continues."
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LONGEST = 300  # characters of a cause
# what each kind means, by the name of its class or of a base; the first that fits counts
_MEANINGS = {
    "OutOfMemoryError": "a machine ran out of memory, and Ray ended a worker: give each worker more cores or use fewer "
    "workers (pool), or stop other programs",
    "ObjectStoreFullError": "Ray's object store is full: raise cluster.object_store_mib",
    "OutOfDiskError": "the disk of Ray's temporary folder is full: free space there, or set TMPDIR to another folder",
    "RuntimeEnvSetupError": "Ray could not prepare the environment of a worker",
    "GetTimeoutError": "Ray did not answer in time: a machine may be overloaded, or the network interrupted",
    "ActorDiedError": "a process of the run has died",
    "ActorUnavailableError": "a process of the run does not answer: its machine may be overloaded or gone",
    "WorkerCrashedError": "a process of the run has died",
    "NodeDiedError": "a machine of the cluster has left it",
    "RayTaskError": "a process of the run failed",
    "ObjectLostError": "a machine that held a result of the run is gone",
    "AuthenticationError": "the Ray cluster demands a token: set RAY_AUTH_TOKEN to that of the cluster",
    "RaySystemError": "Ray itself failed",
    "RayError": "Ray failed",
}


def explain(error: BaseException, details: str = "") -> str | None:
    """One sentence about an error that Ray raised, and what to do; None for any other error.

    Args:
        error: the exception.
        details: where the whole error is written.
    """
    if not is_ray_error(error):
        return None
    what, cause = meaning(error) or "the connection to Ray failed", last_line(error)
    return disclose(f"{what}{f' ({cause})' if cause else ''}. {CONTINUES}{f' Details: {details}' if details else ''}")


def meaning(error: BaseException) -> str | None:
    """What an error of Ray means, and what to do where something can be done; None for an error of another kind."""
    names = [base.__name__ for base in type(error).__mro__]
    return next((text for name, text in _MEANINGS.items() if name in names), None)


def is_ray_error(error: BaseException) -> bool:
    """Whether an error is one of Ray's, or was raised inside of it."""
    exceptions = sys.modules.get("ray.exceptions")
    if exceptions is None:
        return False
    if isinstance(error, exceptions.RayError):
        return True
    if not isinstance(error, (ConnectionError, RuntimeError, TimeoutError, SystemError)):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).split(".")[0] == "ray"


def last_line(error: BaseException) -> str:
    """The last line of an error's text: that of its cause, where Ray quotes a traceback."""
    lines = [line.strip() for line in plain(str(error)).splitlines() if line.strip()]
    return lines[-1][:_LONGEST].rstrip(".") if lines else type(error).__name__


def whole(error: BaseException) -> str:
    """An error with its traceback, for a log."""
    return disclose(plain("".join(traceback.format_exception(error))))


def plain(text: str) -> str:
    """Text without the colours that Ray writes for terminals."""
    return _ESCAPE.sub("", text)


def own_error(error: BaseException, details: str) -> ListwiseError:
    """The error that a run ends with instead of Ray's.

    Args:
        error: the exception; one of ours that Ray has carried from another process comes out as it was.
        details: where the whole error is written.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, ListwiseError):
        return cause
    return RunError(explain(error, details))
