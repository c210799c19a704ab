"""Memory that this process may use: the machine's memory, limited by containers and by jobs of a scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

# For each version of control groups: the file with a group's limit, the file with its use, and the line of memory.stat
# that counts cached file contents. These are part of the use, but the kernel drops them when memory is needed.
VERSIONS = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


@dataclass(frozen=True)
class Memory:
    """Memory in bytes: `total` is what the process may use, `available` what is free of it now."""

    total: int
    available: int


def machine_memory(groups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> Memory:
    """Memory of this process: the machine's, or less if one of the process's control groups has a lower limit.

    Args:
        groups: file that lists the control groups of the process.
        mounted: folder where control groups are mounted.
    """
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    try:
        for limit, used in _limits(groups, mounted):
            total, available = min(total, limit), min(available, max(0, limit - used))
    except OSError:  # another system than Linux
        pass
    return Memory(total, available)


def _limits(groups: Path, mounted: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) in bytes of every group of the process that has a limit, and of the groups that contain it."""
    for line in groups.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version, root = (1, mounted / "memory") if controllers else (2, mounted)
        group = root / path.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (limit_and_use := _limit(folder, version)):
                yield limit_and_use


def _limit(folder: Path, version: int) -> tuple[int, int] | None:
    limit_file, use_file, cached = VERSIONS[version]
    try:
        limit = (folder / limit_file).read_text(encoding="ascii").strip()
        used = int((folder / use_file).read_text(encoding="ascii"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):  # the root group has no such files, and a container does not see the groups around it
        return None
    return None if limit == "max" else (int(limit), used - int(stat.get(cached, 0)))
