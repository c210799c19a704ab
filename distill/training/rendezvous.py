"""Where the ranks of a training find each other: a store that rank 0 serves, on as few interfaces as possible.

Torch's own store listens on all interfaces of rank 0's machine and asks nobody who he is. This one listens on the
address that the other ranks are told, MASTER_ADDR: loopback if all ranks are on one machine.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from datetime import timedelta

import torch.distributed as dist

_log = logging.getLogger(__name__)


def env_store(timeout: timedelta) -> dist.Store:
    """The store that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe; every rank calls it.

    Raises:
        ValueError, RuntimeError: the variables describe none, or rank 0 does not answer.
    """
    rank, ranks, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    host = os.environ["MASTER_ADDR"]
    listener = _listener(host, port) if rank == 0 else None
    return dist.TCPStore(
        host, port, ranks, is_master=rank == 0, timeout=timeout,
        master_listen_fd=listener.detach() if listener else None,
    )  # fmt: skip


def _listener(host: str, port: int) -> socket.socket:
    """A socket that listens on the address of `host`; on all interfaces, if it is not certain that others reach that.

    A machine may know its own name as a loopback address, while others know it as another one.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    if ipaddress.ip_address(address[0]).is_loopback and not all_on_this_machine(host):
        _log.warning("%s is a loopback address on this machine; rank 0 listens on all interfaces", host)
        return socket.create_server(("", port))
    try:
        return socket.create_server(address[:2], family=family)
    except OSError as error:  # such as the address of a gateway that passes connections on
        _log.warning("rank 0 cannot listen on %s (%s); it listens on all interfaces", host, error.strerror)
        return socket.create_server(("", port))


def all_on_this_machine(host: str) -> bool:
    """Whether all ranks are on this machine: the host is no name but a loopback address, or the launcher says so."""
    local, ranks = os.environ.get("LOCAL_WORLD_SIZE"), os.environ.get("WORLD_SIZE")
    if local == ranks or os.environ.get("SLURM_NNODES") == "1" or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
