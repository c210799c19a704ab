"""Hand-over between stages: a pool is over when no process of it lives and what it held is free again.

The pool records the process ids of its workers and their children while they live. Only recorded processes are ended;
one that carries the pool's mark in its environment but was never recorded is named, and left to a person.
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

GRACE_S = 3.0  # for a process to end by itself


@dataclass
class Processes:
    """Recorded processes (id, start) by the machine they run on, with a Ray node to reach it through."""

    nodes: dict[str, str] = field(default_factory=dict)
    recorded: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, place: Place, processes: list[tuple[int, float]]) -> None:
        """Notes processes seen at a place."""
        self.nodes[place.machine] = place.node_id
        self.recorded.setdefault(place.machine, {}).update(processes)


def living(recorded: dict[int, float], pool: str, end: bool) -> list[str]:
    """The processes of a pool that are alive on this machine, in words; recorded ones are ended if `end`."""
    found = []
    for process in psutil.process_iter(["pid", "name", "status"]):
        info = process.info
        if info["status"] == psutil.STATUS_ZOMBIE:
            continue
        known = info["pid"] in recorded and _start(process) == recorded[info["pid"]]
        if known and end:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(info["pid"], signal.SIGKILL)
        if known or _is_marked(process, pool):
            word = "recorded" if known else "not recorded, left alone"
            found.append(f"pid {info['pid']} ({info['name']}, {word})")
    return found


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
    """Waits until a pool's processes are gone and what it held is free again.

    Raises:
        RunError: after the time limit; names the processes and resources that are left.
    """
    begun = time.monotonic()
    limit = settings.handover_timeout_s
    here = machine_id()
    pause = 0.02
    left: list[str] = []
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    while (waited := time.monotonic() - begun) < limit:
        end = waited > GRACE_S
        left = []
        for machine, recorded in processes.recorded.items():
            node = processes.nodes[machine]
            if machine == here:
                left += living(recorded, job.mark, end)
            elif node in alive:
                left += _living_there(node, recorded, job.mark, end)
        # on a cluster that others use too, no more can be asked than what was free when the pool began
        names = [name for name, amount in held.items() if amount]
        if names and not left:
            available, all_there = ray.available_resources(), ray.cluster_resources()  # a node may have left meanwhile
            wanted = {name: min(before.get(name, 0.0), all_there.get(name, 0.0)) for name in names}
            short = [name for name in names if available.get(name, 0.0) < wanted[name] - 1e-6]
            left = [f"{name} ({available.get(name, 0.0):g} of {wanted[name]:g} free)" for name in short]
        if not left:
            return
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)
    raise RunError(
        f"stage {job.stage}: {limit:.0f} s after its end, this is still held: {'; '.join(left)}. "
        "The next stage cannot have it. End these processes, then run again."
    )


def _living_there(node: str, recorded: dict[int, float], pool: str, end: bool) -> list[str]:
    task = ray.remote(living).options(
        num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
    )
    try:
        found = ray.get(task.remote(recorded, pool, end), timeout=20.0)
    except RayError:
        return (
            [] if not any(n["Alive"] and n["NodeID"] == node for n in ray.nodes()) else [f"node {node[:6]}: no answer"]
        )
    return [f"{text} on node {node[:6]}" for text in found]
