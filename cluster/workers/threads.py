"""Threads of a worker: its libraries compute with as many as it holds cores.

Ray names the number in OMP_NUM_THREADS while it constructs an actor. Libraries that the process has loaded before that,
since it was forked from one that had them, do not read the variable again.
"""

from __future__ import annotations

import os
import sys


def held_cores() -> int:
    """The cores that Ray has given to this worker, at least 1, or what OMP_NUM_THREADS says."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    if named.isdigit():
        return max(1, int(named))
    import ray  # it takes the variable away again after some calls

    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))


def use_held_cores() -> None:
    """Sets the threads of every library that is loaded. OpenMP counts for the calling thread alone: call it in each."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(held_cores())
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(held_cores())
