"""How much memory this process may take: what the machine has, and what containers and jobs of a scheduler leave it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

# files of a control group, by the version of control groups: its limit, what is used, and the line of memory.stat that
# tells how much of that is file contents which the kernel drops when somebody needs the memory
VERSIONS = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


@dataclass(frozen=True)
class Memory:
    """Bytes: `total` that may be used, `available` of them now."""

    total: int
    available: int


def machine_memory(groups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> Memory:
    """Of this process: the machine's, or less if one of its control groups is limited to less.

    Args:
        groups: what the process is in.
        mounted: where groups are.
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
    """(limit, used) of every group that has a limit, bytes; those that hold it count too."""
    for line in groups.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version, root = (1, mounted / "memory") if controllers else (2, mounted)
        group = root / path.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (found := _limit(folder, version)):
                yield found


def _limit(folder: Path, version: int) -> tuple[int, int] | None:
    limit, used, dropped = VERSIONS[version]
    try:
        most = (folder / limit).read_text(encoding="ascii").strip()
        now = int((folder / used).read_text(encoding="ascii"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):  # the root has none, and a container does not see the groups around it
        return None
    return None if most == "max" else (int(most), now - int(stat.get(dropped, 0)))
