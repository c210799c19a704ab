"""The memory of a process is that of its machine, limited by containers and schedulers."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from cluster.machines.memory import VERSIONS, machine_memory

MIB = 2**20


def group(folder: Path, version: int, limit: str, used: int, dropped: int = 0) -> None:
    names = VERSIONS[version]
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(
        (*names[:2], "memory.stat"), (limit, str(used), f"anon 5\n{names[2]} {dropped}\n"), strict=True
    ):
        (folder / name).write_text(content)


@pytest.fixture(params=[1, 2])
def machine(request, tmp_path):
    """The file that lists a process's groups, the mounted folder, the folder of memory groups, and their version."""
    version = request.param
    (tmp_path / "groups").write_text(
        "9:name=systemd:/x\n4:cpu,memory:/job/step\n0::/\n" if version == 1 else "0::/job/step\n"
    )
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    return tmp_path / "groups", mounted, mounted / "memory" if version == 1 else mounted, version


def test_used_memory_counts_and_memory_that_the_kernel_can_drop_does_not(machine):
    groups, mounted, root, version = machine
    group(root / "job" / "step", version, str(64 * MIB), 50 * MIB, dropped=20 * MIB)
    memory = machine_memory(groups, mounted)
    assert (memory.total, memory.available) == (64 * MIB, 34 * MIB)


def test_the_lowest_limit_of_a_group_and_those_around_it_counts(machine):
    groups, mounted, root, version = machine
    group(root / "job" / "step", version, str(64 * MIB), 10 * MIB)
    group(root / "job", version, str(48 * MIB), 44 * MIB)
    memory = machine_memory(groups, mounted)
    assert (memory.total, memory.available) == (48 * MIB, 4 * MIB)


def test_without_limits_the_memory_is_the_machines(machine):
    groups, mounted, root, version = machine
    group(root / "job" / "step", version, "max" if version == 2 else str(2**63 - 4096), 10 * MIB)
    memory = machine_memory(groups, mounted)
    assert memory.total == psutil.virtual_memory().total
    assert 0.5 < memory.available / psutil.virtual_memory().available < 2


def test_a_container_that_sees_only_its_own_group_finds_its_limit_at_the_root(machine):
    """The listed path is the group's path on the host, which the container has not mounted."""
    groups, mounted, root, version = machine
    group(root, version, str(32 * MIB), 40 * MIB)
    memory = machine_memory(groups, mounted)
    assert (memory.total, memory.available) == (32 * MIB, 0), "available memory is never negative"


def test_on_a_system_without_groups_the_memory_is_the_machines(tmp_path):
    assert machine_memory(tmp_path / "none", tmp_path).total == psutil.virtual_memory().total
