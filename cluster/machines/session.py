"""The Ray session: a private Ray started on this machine, or a running cluster that this process joins.

A Ray started here listens only on 127.0.0.1, demands a token that only its own processes have, and keeps its files in
a folder that no other user can enter. Only what this process started is stopped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import sys
import threading
import time
from typing import Any

from cluster.errors import InputError, RunError
from cluster.machines import fork_server, ray_errors, ray_start
from cluster.machines.head import listens, watch_head
from cluster.machines.private_folder import ray_folder
from cluster.settings import ClusterSettings, PoolSettings

# Ray reads these variables when it is imported, so they are set before the import.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a worker without GPUs keeps its environment as it is
    "RAY_DEDUP_LOGS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # we report the deaths of workers; Ray prints them even with log_to_driver=False
}
PRIVATE = {
    "RAY_prestart_worker_first_driver": "0",  # a worker is forked when it is needed, with what was imported until then
    # on Linux Ray replaces 127.0.0.1 by the host's address and listens on all interfaces, unless this is off
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # every user of the machine can reach loopback, and whoever reaches Ray can run code as this user
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}

ANSWER_S = 5.0  # a head that has just been started needs a moment until it listens

_watches: list[threading.Event] = []


def connect(settings: ClusterSettings) -> bool:
    """Starts or joins Ray, unless this process is connected already. Returns whether this call connected.

    Raises:
        InputError: no Ray answers at `settings.address`, or the private folder is not this user's alone.
        RunError: Ray does not start here, or does not have `settings.nodes` nodes within the time limit.
    """
    if "ray" not in sys.modules:
        os.environ.update(QUIET if settings.address else QUIET | PRIVATE)
    import ray

    if ray.is_initialized():
        return False
    if settings.address:
        _check_listens(settings.address)
    common: dict[str, Any] = {
        "log_to_driver": False, "logging_level": logging.ERROR, "job_config": ray_start.job_config(),
    }  # fmt: skip
    try:
        with ray_start.started_apart(), contextlib.ExitStack() as half_started:
            half_started.callback(ray.shutdown)
            if settings.address:
                ray.init(address=settings.address, **common)
            else:
                without_services = ray_start.started_without_services(metrics=settings.metrics_port is not None)
                with without_services, fork_server.started_by_server():
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
            half_started.pop_all()
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.AuthenticationError) as error:
        if settings.address:
            raise InputError(
                f"cluster.address: no Ray cluster answers at '{settings.address}' ({ray_errors.last_line(error)})"
            ) from error
        raise RunError(
            f"Ray did not start on this machine ({ray_errors.last_line(error)}). Its logs are in "
            f"{ray_folder() or os.environ['RAY_TMPDIR']}/session_latest/logs; `listwise doctor` checks the machine."
        ) from error
    _watches.append(watch_head(ray.get_runtime_context().gcs_address, settings.head_timeout_s))
    if settings.address and settings.nodes:
        _wait_for_nodes(settings.nodes, settings.wait_timeout_s)
    return True


def _check_listens(address: str) -> None:
    """Refuses an address where nothing listens. Ray 2.60 would try such an address for more than four minutes.

    Raises:
        InputError: nothing listens at "host:port". Other forms of address are not checked here; Ray checks them.
    """
    if not re.fullmatch(r"[^/]+:\d+", address):
        return
    limit = time.monotonic() + ANSWER_S
    while not listens(address):
        if time.monotonic() > limit:
            raise InputError(
                f"cluster.address: no Ray cluster answers at '{address}': nothing listens there. Start a cluster (ray "
                "start --head), or correct the address; its port is that of Ray's head, usually 6379."
            )
        time.sleep(0.2)


def _wait_for_nodes(wanted: int, limit_s: float) -> None:
    """Waits until enough nodes have joined. They start one by one, and an early stage would count too few workers."""
    import ray

    end = time.monotonic() + limit_s
    while len(alive := [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]) < wanted:
        if time.monotonic() > end:
            raise RunError(
                f"cluster.nodes: waited {limit_s:.0f} s (cluster.wait_timeout_s) for {wanted} nodes of the Ray "
                f"cluster, and there are {len(alive)}: {', '.join(sorted(alive))}. Find out why the others do not join."
            )
        time.sleep(0.2)


def disconnect() -> None:
    """Ends a session that `connect` started."""
    import ray

    while _watches:
        _watches.pop().set()
    ray.shutdown()
    fork_server.close_all()


def worker_resources(pool: PoolSettings) -> dict[str, float]:
    """Resources of each worker of a pool, by Ray's names; resources of amount 0 are left out."""
    resources = {"CPU": pool.cores, "GPU": pool.gpus, **pool.resources}
    return {name: amount for name, amount in resources.items() if amount}


def with_all_cores(pool: PoolSettings) -> PoolSettings:
    """The pool as it shares the cores of this cluster (`PoolSettings.sharing`); unlike nodes count as the smallest."""
    import ray

    nodes = [cores for node in ray.nodes() if node["Alive"] and (cores := node["Resources"].get("CPU"))]
    return pool.sharing(min(nodes), len(nodes)) if nodes else pool


def places_for(pool: PoolSettings) -> int:
    """The number of workers of a pool that the living nodes could hold if nothing else ran on them."""
    import ray

    wanted = worker_resources(pool)
    places = 0
    for node in ray.nodes():
        if node["Alive"]:
            available = node["Resources"]
            if not wanted:
                places += int(available.get("CPU", 1))
            else:
                places += min(int(available.get(name, 0.0) / amount + 1e-9) for name, amount in wanted.items())
    return places


def check_places(stage: str, pool: PoolSettings) -> None:
    """Refuses a pool if no node can hold even one of its workers.

    Raises:
        InputError: it names the resources that a worker wants and those that each node has.
    """
    if places_for(pool) == 0:
        raise InputError(
            f"stage {stage}: each worker wants {describe_request(pool)}, and no node of the cluster has that. "
            f"{describe_cluster()} Change the stage's pool, or join a cluster that has it (cluster.address)."
        )


def describe_request(pool: PoolSettings) -> str:
    """Resources of each worker of a pool, as text: "1 CPU, 8 GPU"."""
    return ", ".join(f"{amount:g} {name}" for name, amount in worker_resources(pool).items()) or "nothing"


def describe_cluster() -> str:
    """Resources of each living node, as text."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    lines = [f"{node['NodeManagerAddress']} has {_amounts(node['Resources'])}" for node in nodes[:8]]
    more = f", and {len(nodes) - 8} more nodes" if len(nodes) > 8 else ""
    return f"The cluster: {'; '.join(lines)}{more}."


def describe_free() -> str:
    """Free resources of the whole cluster, as text."""
    import ray

    return _amounts(ray.available_resources())


def _amounts(resources: dict[str, float]) -> str:
    """Resources that a recipe can ask for, as text; Ray's internal entries are left out."""
    named = {name: amount for name, amount in sorted(resources.items()) if ":" not in name}
    internal = ("memory", "object_store_memory")
    return ", ".join(f"{amount:g} {name}" for name, amount in named.items() if name not in internal) or "nothing"
