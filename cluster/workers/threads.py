"""Threads of a worker: its libraries compute with as many as it holds cores.

Ray names the number in OMP_NUM_THREADS before it constructs an actor. Libraries that the process has loaded before
that, since it was forked from one that had them, do not read the variable again.
"""

from __future__ import annotations

import os
import sys


def held_cores() -> int:
    """The cores that Ray has given to this process, at least 1; all of the machine's outside of Ray."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(named)) if named.isdigit() else len(os.sched_getaffinity(0))


def use_held_cores() -> None:
    """Sets the threads of every library that is loaded. OpenMP counts for the calling thread alone: call it in each."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(held_cores())
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(held_cores())
