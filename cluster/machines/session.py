"""The Ray session: one on this machine, loopback only and quiet, or a running cluster that is joined.

A Ray started here listens on 127.0.0.1 alone, asks for a token that only its own processes have, and keeps its files
where no other user can enter. Nothing that this process did not start is ever stopped.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import sys
import threading
import time
from typing import Any

from cluster.errors import InputError, RunError
from cluster.machines.head import listens, watch
from cluster.machines.private_folder import ray_folder
from cluster.settings import ClusterSettings, PoolSettings

# Read by Ray when it is imported, so they are set before that.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a worker without GPUs keeps its environment as it is
    "RAY_DEDUP_LOGS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # deaths of workers are ours to report; Ray prints them even when told not to
}
PRIVATE = {
    # on Linux Ray replaces 127.0.0.1 by the host's address and listens on all interfaces, unless this is off
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # loopback is shared with every other user of the machine, and who reaches Ray can run code as us
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}

ANSWER_S = 5.0  # a head that is just being started may take a moment

_watches: list[threading.Event] = []


def connect(settings: ClusterSettings) -> bool:
    """Starts or joins Ray, if this process has not yet. Returns whether this call did.

    Raises:
        InputError: there is no Ray at `settings.address`, or the temporary folder is somebody else's.
        RunError: Ray does not start here, or has not as many nodes as `settings.nodes` within the time limit.
    """
    if "ray" not in sys.modules:
        os.environ.update(QUIET if settings.address else QUIET | PRIVATE)
    import ray

    if ray.is_initialized():
        return False
    handler = signal.getsignal(signal.SIGTERM)
    if settings.address:
        _refuse_silence(settings.address)
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if settings.address:
            ray.init(address=settings.address, **common)
        else:
            ray.init(
                address="local",
                num_cpus=settings.cpus,
                object_store_memory=settings.object_store_mib * 2**20,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _metrics_export_port=settings.metrics_port,
                _temp_dir=ray_folder(),
                **common,
            )
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.AuthenticationError) as error:
        if settings.address:
            first = str(error).split("\n")[0]
            raise InputError(f"cluster.address: no Ray cluster answers at '{settings.address}' ({first})") from error
        raise RunError(f"Ray did not start on this machine: {error}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own, which ends the process on the spot
    _watches.append(watch(ray.get_runtime_context().gcs_address, settings.head_timeout_s))
    if settings.address and settings.nodes:
        _wait_for_nodes(settings.nodes, settings.wait_timeout_s)
    return True


def _refuse_silence(address: str) -> None:
    """Says at once that nothing is there; Ray 2.60 tries an address where nothing listens for more than four minutes.

    Raises:
        InputError: nothing listens at "host:port"; other forms of address are left to Ray.
    """
    if not re.fullmatch(r"[^/]+:\d+", address):
        return
    limit = time.monotonic() + ANSWER_S
    while not listens(address):
        if time.monotonic() > limit:
            raise InputError(
                f"cluster.address: no Ray cluster answers at '{address}': nothing listens there. Start one (ray start "
                "--head), or correct the address; it has the port of Ray's head, usually 6379."
            )
        time.sleep(0.2)


def _wait_for_nodes(wanted: int, limit_s: float) -> None:
    """Nodes of a job start one after the other; a stage that begins before would count too few workers."""
    import ray

    end = time.monotonic() + limit_s
    while len(alive := [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]) < wanted:
        if time.monotonic() > end:
            raise RunError(
                f"cluster.nodes: waited {limit_s:.0f} s (cluster.wait_timeout_s) for {wanted} nodes of the Ray "
                f"cluster, and there are {len(alive)}: {', '.join(sorted(alive))}. Look why the others do not join."
            )
        time.sleep(0.2)


def disconnect() -> None:
    """Ends a session that `connect` started."""
    import ray

    while _watches:
        _watches.pop().set()
    ray.shutdown()


def request(pool: PoolSettings) -> dict[str, float]:
    """What each worker of a pool holds, by Ray's names."""
    wants = {"CPU": pool.cpus, "GPU": pool.gpus, **pool.resources}
    return {name: amount for name, amount in wants.items() if amount}


def places_for(pool: PoolSettings) -> int:
    """How many workers of a pool the living nodes can hold, were they empty."""
    import ray

    wants = request(pool)
    total = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            if not wants:
                total += int(has.get("CPU", 1))
            else:
                total += min(int(has.get(name, 0.0) / amount + 1e-9) for name, amount in wants.items())
    return total


def check_places(stage: str, pool: PoolSettings) -> None:
    """Refuses a pool of which not one worker fits on any node.

    Raises:
        InputError: names what a worker wants and what each node has.
    """
    if places_for(pool) == 0:
        raise InputError(
            f"stage {stage}: each worker wants {describe_request(pool)}, and no node of the cluster has that. "
            f"{describe_cluster()} Change the stage's pool, or join a cluster that has it (cluster.address)."
        )


def describe_request(pool: PoolSettings) -> str:
    """What each worker of a pool wants, in words."""
    return ", ".join(f"{amount:g} {name}" for name, amount in request(pool).items()) or "nothing"


def describe_cluster() -> str:
    """What each living node has, in words."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    lines = [f"{node['NodeManagerAddress']} has {_amounts(node['Resources'])}" for node in nodes[:8]]
    more = f", and {len(nodes) - 8} more nodes" if len(nodes) > 8 else ""
    return f"The cluster: {'; '.join(lines)}{more}."


def free() -> str:
    """What the cluster has free, in words."""
    import ray

    return _amounts(ray.available_resources())


def _amounts(resources: dict[str, float]) -> str:
    """What people ask for, without Ray's own books."""
    named = {name: amount for name, amount in sorted(resources.items()) if ":" not in name}
    own = ("memory", "object_store_memory")
    return ", ".join(f"{amount:g} {name}" for name, amount in named.items() if name not in own) or "nothing"
