"""What a worker computes with: as many threads as it holds cores, and no GPU unless it holds one.

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
    torch = sys.modules.get("torch")
    if torch and hasattr(torch, "set_num_threads"):  # another thread may be importing it at this moment
        torch.set_num_threads(held_cores())


def hide_other_gpus() -> None:
    """Hides all GPUs from a worker that holds none; call it before a library of CUDA is used.

    Ray sets CUDA_VISIBLE_DEVICES for workers with GPUs and leaves it alone for others, which would then all compute on
    the first GPU of the machine, beside the workers that hold it.
    """
    import ray

    if not ray.get_runtime_context().get_assigned_resources().get("GPU"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
