"""The hand-over of machines between stages: a pool ends when its processes are dead and its resources are free again.

A pool records the process ids of its workers and of their child processes while they live. Only recorded processes are
killed. A process that has the pool's mark in its environment but was never recorded is named in an error and left
alive.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import RunError
from cluster.settings import ClusterSettings
from cluster.workers.actor import POOL_VARIABLE, Job, Place
from cluster.workers.process import identify, machine_id

GRACE_S = 3.0  # time that a process has to end by itself


@dataclass
class Processes:
    """The recorded processes of a pool.

    Attributes:
        nodes: the Ray node through which each machine is reached.
        recorded: process id → start of each process, by machine.
    """

    nodes: dict[str, str] = field(default_factory=dict)
    recorded: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, place: Place, processes: list[tuple[int, float]]) -> None:
        """Records processes of the machine of a place."""
        self.nodes[place.machine] = place.node_id
        self.recorded.setdefault(place.machine, {}).update(processes)


def living_processes(recorded: dict[int, float], pool: str, end: bool) -> list[str]:
    """Descriptions of the processes of a pool that are alive on this machine. If `end`, recorded ones are killed.

    Args:
        recorded: process id → start.
        pool: the pool's mark.
        end: whether recorded processes are killed.
    """
    descriptions = []
    for process in psutil.process_iter(["pid", "name", "status"]):
        info = process.info
        if info["status"] == psutil.STATUS_ZOMBIE:
            continue
        is_recorded = info["pid"] in recorded and _start(process) == recorded[info["pid"]]
        if is_recorded and end:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(info["pid"], signal.SIGKILL)
        if is_recorded or _is_marked(process, pool):
            status = "recorded" if is_recorded else "not recorded, left alone"
            descriptions.append(f"pid {info['pid']} ({info['name']}, {status})")
    return descriptions


def _start(process: psutil.Process) -> float | None:
    try:
        return identify(process)[1]
    except (psutil.Error, OSError):
        return None


def _is_marked(process: psutil.Process, pool: str) -> bool:
    try:
        return process.environ().get(POOL_VARIABLE) == pool
    except (psutil.Error, OSError):
        return False


def wait_until_gone(
    job: Job,
    processes: Processes,
    held: dict[str, float],
    before: dict[str, float],
    settings: ClusterSettings,
) -> None:
    """Waits until a pool's processes have ended and its resources are free again.

    Args:
        job: names the stage and the pool's mark.
        processes: the pool's recorded processes.
        held: GPUs and custom resources of each worker.
        before: the resources that were free when the pool began.
        settings: holds the time limit.

    Raises:
        RunError: the time limit has passed; the message names the processes and resources that are left.
    """
    begun = time.monotonic()
    limit_s = settings.handover_timeout_s
    this_machine = machine_id()
    pause_s = 0.02
    left: list[str] = []
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    while (waited := time.monotonic() - begun) < limit_s:
        end = waited > GRACE_S
        left = []
        for machine, recorded in processes.recorded.items():
            node = processes.nodes[machine]
            if machine == this_machine:
                left += living_processes(recorded, job.mark, end)
            elif node in alive:
                left += _living_on_node(node, recorded, job.mark, end)
        # others may use the cluster too, so only what was free when the pool began must be free again
        names = [name for name, amount in held.items() if amount]
        if names and not left:
            available, total = ray.available_resources(), ray.cluster_resources()  # a node may have left meanwhile
            wanted = {name: min(before.get(name, 0.0), total.get(name, 0.0)) for name in names}
            short = [name for name in names if available.get(name, 0.0) < wanted[name] - 1e-6]
            left = [f"{name} ({available.get(name, 0.0):g} of {wanted[name]:g} free)" for name in short]
        if not left:
            return
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 1.0)
    raise RunError(
        f"stage {job.stage}: {limit_s:.0f} s after its end, this is still held: {'; '.join(left)}. "
        "The next stage cannot start. End these processes, then run again."
    )


def _living_on_node(node: str, recorded: dict[int, float], pool: str, end: bool) -> list[str]:
    """What `living_processes` returns on another node."""
    task = ray.remote(living_processes).options(
        num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
    )
    try:
        descriptions = ray.get(task.remote(recorded, pool, end), timeout=20.0)
    except RayError:
        return (
            [] if not any(n["Alive"] and n["NodeID"] == node for n in ray.nodes()) else [f"node {node[:6]}: no answer"]
        )
    return [f"{text} on node {node[:6]}" for text in descriptions]
