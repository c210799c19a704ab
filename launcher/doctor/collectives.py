"""Do the nodes reach each other as ranks of a training will? A group over one process a node, and its all-reduce timed.

Ranks meet at a store on the first node, as Ray Train's and torchrun's do, and then speak to each other directly: over
NCCL where every node has a GPU, else over gloo.
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
SIZES = {"nccl": 64 * MIB, "gloo": 8 * MIB}
REPEATS = 5


@dataclass(frozen=True)
class Meeting:
    """Where the ranks of a group meet."""

    host: str
    port: int
    ranks: int
    backend: str
    limit_s: float


@dataclass(frozen=True)
class Measured:
    """What one rank saw: seconds of an all-reduce of `size` bytes, and of one of four bytes; or what went wrong."""

    interface: str
    size: int = 0
    seconds: float = 0.0
    latency_s: float = 0.0
    error: str = ""

    @property
    def bytes_per_s(self) -> float:
        """Size over time: what a training step waits for."""
        return self.size / self.seconds


def open_meeting(host: str) -> tuple[Any, int]:
    """Opens the store that ranks meet at, on a free port; returns it, to be kept, and the port."""
    from torch.distributed import TCPStore

    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    return store, store.port


def measure(meeting: Meeting, rank: int) -> Measured:
    """Joins the group as one rank and times its all-reduce. Never raises: what went wrong is told."""
    interface = "?"
    try:
        import torch
        import torch.distributed as dist

        limit = timedelta(seconds=meeting.limit_s)
        store = dist.TCPStore(meeting.host, meeting.port, is_master=False, timeout=limit)
        interface = interface_to(meeting.host, meeting.port, meeting.backend)
        device = torch.device("cuda:0" if meeting.backend == "nccl" else "cpu")
        dist.init_process_group(meeting.backend, store=store, rank=rank, world_size=meeting.ranks, timeout=limit)
        try:
            size = SIZES[meeting.backend]
            seconds = _all_reduce(torch.ones(size // 4, device=device), device)
            latency = _all_reduce(torch.ones(1, device=device), device)
            return Measured(interface, size, seconds, latency)
        finally:
            dist.destroy_process_group()
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        return Measured(interface, error=" ".join(str(error).split())[:200])


def _all_reduce(tensor: Any, device: Any) -> float:
    """Median seconds of an all-reduce, after one that opens the connections."""
    import torch
    import torch.distributed as dist

    taken = []
    for _ in range(REPEATS + 1):
        dist.barrier()
        begun = time.perf_counter()
        dist.all_reduce(tensor)
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


def interface_to(host: str, port: int, backend: str) -> str:
    """The network interface towards other nodes, as the backend will choose it."""
    if chosen := os.environ.get(f"{backend.upper()}_SOCKET_IFNAME"):
        return f"{chosen} ({backend.upper()}_SOCKET_IFNAME)"
    if backend == "gloo":  # takes what the host's name resolves to, else loopback
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
