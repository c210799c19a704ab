"""A process may take what its machine has, and what containers and schedulers leave it of that."""

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
    """The file that tells a process's groups, where they are mounted, where those of memory are, and their version."""
    version = request.param
    (tmp_path / "groups").write_text(
        "9:name=systemd:/x\n4:cpu,memory:/job/step\n0::/\n" if version == 1 else "0::/job/step\n"
    )
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    return tmp_path / "groups", mounted, mounted / "memory" if version == 1 else mounted, version


def test_what_is_used_counts_and_what_the_kernel_can_drop_does_not(machine):
    groups, mounted, root, version = machine
    group(root / "job" / "step", version, str(64 * MIB), 50 * MIB, dropped=20 * MIB)
    found = machine_memory(groups, mounted)
    assert (found.total, found.available) == (64 * MIB, 34 * MIB)


def test_the_least_limit_of_the_groups_around_it_counts(machine):
    groups, mounted, root, version = machine
    group(root / "job" / "step", version, str(64 * MIB), 10 * MIB)
    group(root / "job", version, str(48 * MIB), 44 * MIB)
    found = machine_memory(groups, mounted)
    assert (found.total, found.available) == (48 * MIB, 4 * MIB)


def test_without_limits_it_is_the_machines(machine):
    groups, mounted, root, version = machine
    group(root / "job" / "step", version, "max" if version == 2 else str(2**63 - 4096), 10 * MIB)
    found = machine_memory(groups, mounted)
    assert found.total == psutil.virtual_memory().total
    assert 0.5 < found.available / psutil.virtual_memory().available < 2


def test_a_container_that_sees_only_its_own_group_finds_its_limit_at_the_root(machine):
    """Its path is that on the host, which is not mounted."""
    groups, mounted, root, version = machine
    group(root, version, str(32 * MIB), 40 * MIB)
    found = machine_memory(groups, mounted)
    assert (found.total, found.available) == (32 * MIB, 0), "never less than nothing"


def test_systems_without_groups_are_asked_for_their_memory_alone(tmp_path):
    assert machine_memory(tmp_path / "none", tmp_path).total == psutil.virtual_memory().total
