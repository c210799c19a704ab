"""Environment variables that a person sends to a job, such as keys. They pass through memory alone, no file and no log.

`launcher/jobs` starts a job and puts them into the store of the cluster's head, under a random name. The job's driver
waits for them, takes them out before anything else, and hands them to its workers as arguments. The name, which Ray's
logs show, then leads to nothing.
"""

from __future__ import annotations

import json
import os
import time

from cluster.errors import RunError

NAME_VARIABLE = "LISTWISE_SENT_VARIABLES"  # holds the random name, in the environment of a job's driver
WAIT_S = 60.0
_received: dict[str, str] = {}


def receive() -> None:
    """Takes the variables that were sent to this job into the environment, and removes them from the head's store.

    Without `NAME_VARIABLE` nothing was sent.

    Raises:
        RunError: they have not come within `WAIT_S`.
    """
    name = os.environ.pop(NAME_VARIABLE, None)
    if name is None:
        return
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # of a compiled module

    store, limit = GcsClient(address=os.environ["RAY_ADDRESS"]), time.monotonic() + WAIT_S
    while (content := store.internal_kv_get(name.encode(), None)) is None:
        if time.monotonic() > limit:
            raise RunError(
                f"the variables of --env have not come within {WAIT_S:g} s: the submitting command ended too early, or "
                "the cluster's head has started anew. Submit the recipe again."
            )
        time.sleep(0.2)
    store.internal_kv_del(name.encode(), False, None)
    take(json.loads(content))


def take(variables: dict[str, str]) -> None:
    """Sets variables in the environment of this process, and keeps them for processes that it hands them to."""
    _received.update(variables)
    os.environ.update(variables)


def received() -> dict[str, str]:
    """What was sent to this job; a copy."""
    return dict(_received)
