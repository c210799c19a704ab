"""Knowing a process again: by its id and its start, and by the machine on which the id means something."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil


def identify(process: psutil.Process) -> tuple[int, float]:
    """A process's id and its start, which tells it from a later process that is given the same id.

    On Linux the start counts from the boot: as a time of day it would move when the clock is set.
    """
    stat = Path(f"/proc/{process.pid}/stat")
    if not stat.exists():
        return process.pid, process.create_time()
    # the name in parentheses may hold spaces; field 22 is the start
    return process.pid, float(stat.read_text().rpartition(")")[2].split()[19])


def machine_id() -> str:
    """The same for two processes that see each other's process ids."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    return (boot.read_text().strip() + str(namespace.readlink())) if boot.exists() else socket.gethostname()


def lives(pid: int, start: float) -> bool:
    """Whether the process that `identify` described is alive on this machine."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and identify(process)[1] == start
    except (psutil.Error, OSError):
        return False
