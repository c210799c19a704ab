"""The identity of a process: its id, its start, and the machine on which the id is valid."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil


def identify(process: psutil.Process) -> tuple[int, float]:
    """The id and the start of a process. The start tells it from a later process that gets the same id.

    On Linux the start is counted from the boot of the machine, because a time of day changes when the clock is set.
    """
    stat = Path(f"/proc/{process.pid}/stat")
    if not stat.exists():
        return process.pid, process.create_time()
    # field 22 is the start; the process name in parentheses may hold spaces
    return process.pid, float(stat.read_text().rpartition(")")[2].split()[19])


def machine_id() -> str:
    """An id that is equal for two processes if they see each other's process ids."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    return (boot.read_text().strip() + str(namespace.readlink())) if boot.exists() else socket.gethostname()


def is_alive(pid: int, start: float) -> bool:
    """Whether the process that `identify` described is alive on this machine."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and identify(process)[1] == start
    except (psutil.Error, OSError):
        return False
