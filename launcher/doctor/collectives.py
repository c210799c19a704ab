"""The check of the network between nodes: one process on each node joins a process group and times its all-reduce.

The ranks find each other through a store on the first node, as those of Ray Train and torchrun do. Then they send to
each other directly: over NCCL if every node has a GPU, otherwise over gloo.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil

MIB = 2**20
SIZES = {"nccl": 64 * MIB, "gloo": 8 * MIB}  # bytes of the timed all-reduce
REPEATS = 5


@dataclass(frozen=True)
class Rendezvous:
    """The store through which the ranks of a process group find each other, and the group's size and backend."""

    host: str
    port: int
    ranks: int
    backend: str
    limit_s: float


@dataclass(frozen=True)
class AllReduceTimes:
    """The times of one rank: seconds of an all-reduce of `size` bytes, and of one of four bytes; or its error."""

    interface: str
    size: int = 0
    seconds: float = 0.0
    latency_s: float = 0.0
    error: str = ""

    @property
    def bytes_per_s(self) -> float:
        """Bytes of the tensor over seconds: the rate at which a training step gets its gradients reduced."""
        return self.size / self.seconds


def open_store(host: str) -> tuple[Any, int]:
    """Opens the store of a rendezvous on a free port. Returns the store, which the caller must keep, and the port."""
    from torch.distributed import TCPStore

    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    return store, store.port


def time_all_reduce(rendezvous: Rendezvous, rank: int) -> AllReduceTimes:
    """Joins the process group as one rank and times its all-reduce. It never raises: an error is part of the result."""
    interface = "?"
    try:
        import torch
        import torch.distributed as dist

        host, port, backend = rendezvous.host, rendezvous.port, rendezvous.backend
        limit = timedelta(seconds=rendezvous.limit_s)
        store = dist.TCPStore(host, port, is_master=False, timeout=limit)
        interface = interface_to(host, port, backend)
        device = torch.device("cuda:0" if backend == "nccl" else "cpu")
        dist.init_process_group(backend, store=store, rank=rank, world_size=rendezvous.ranks, timeout=limit)
        try:
            size = SIZES[backend]
            seconds = _median_seconds(torch.ones(size // 4, device=device), device)
            latency = _median_seconds(torch.ones(1, device=device), device)
            return AllReduceTimes(interface, size, seconds, latency)
        finally:
            dist.destroy_process_group()
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        return AllReduceTimes(interface, error=" ".join(str(error).split())[:200])


def _median_seconds(tensor: Any, device: Any) -> float:
    """Median seconds of an all-reduce; a first one, which opens the connections, does not count."""
    import torch
    import torch.distributed as dist

    seconds = []
    for _ in range(REPEATS + 1):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(tensor)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def interface_to(host: str, port: int, backend: str) -> str:
    """The network interface that the backend will choose for other nodes, with its address."""
    if chosen := os.environ.get(f"{backend.upper()}_SOCKET_IFNAME"):
        return f"{chosen} ({backend.upper()}_SOCKET_IFNAME)"
    if backend == "gloo":  # gloo takes the address that the host's name resolves to, or loopback
        try:
            own = socket.gethostbyname(socket.gethostname())
        except OSError:
            own = "127.0.0.1"
    else:
        with socket.create_connection((host, port), timeout=5.0) as connection:
            own = connection.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == own for address in addresses):
            return f"{name} {own}"
    return own
