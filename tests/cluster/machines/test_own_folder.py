"""A folder of one process stays while the process lives, and is removed by the next one after its death."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.machines.own_folder import own_folder, root_of
from cluster.machines.vllm import MAX_SOCKET, SOCKET_NAME, SOCKETS, keep_sockets_private

HOLD = """
import sys
from cluster.machines.own_folder import own_folder
print(own_folder("things"), flush=True)
sys.stdin.read()
"""


FORK = """
import os, sys
from cluster.machines.own_folder import own_folder
own = own_folder("things")
if (child := os.fork()) == 0:
    print(own_folder("things"))
    sys.exit(0)
os.waitpid(child, 0)
print(own, own.is_dir())
"""


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for temporary files whose path is short, as sockets need it."""
    folder = tempfile.mkdtemp(dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", folder)
    monkeypatch.setenv("TMPDIR", folder)
    monkeypatch.setattr("cluster.machines.own_folder._own", {})
    yield Path(folder)
    shutil.rmtree(folder)


def holder() -> tuple[subprocess.Popen[str], Path]:
    """A process that has a folder, and the folder."""
    command = [sys.executable, "-c", HOLD]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_that_a_killed_process_left_is_removed_and_one_of_a_living_process_stays() -> None:
    killed, left = holder()
    living, kept = holder()
    (left / "socket").touch()
    (kept / "socket").touch()
    try:
        assert left.parent == kept.parent == root_of("things")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert left.is_dir()
        own = own_folder("things")
        assert own.is_dir() and not left.exists()
        assert (kept / "socket").exists()
        assert own_folder("things") == own, "always the same one"
        assert own_folder("others") != own
    finally:
        living.communicate()
    assert not kept.exists(), "a process that ends by itself removes its folder"


def test_a_forked_process_has_a_folder_of_its_own_and_leaves_that_of_its_parent() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True, timeout=60)
    of_child, of_parent, is_there = done.stdout.split()
    assert Path(of_child).parent == Path(of_parent).parent == root_of("things")
    assert of_child != of_parent
    assert is_there == "True"
    assert not Path(of_child).exists() and not Path(of_parent).exists()


def test_sockets_of_vllm_lie_there_unless_the_environment_names_a_place_or_the_path_is_too_long(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SOCKETS, "/a/place")
    keep_sockets_private()
    assert os.environ[SOCKETS] == "/a/place"
    monkeypatch.setenv(SOCKETS, str(temporary / f"listwise-{os.getuid()}" / "sockets" / "of-a-parent"))
    keep_sockets_private()
    assert os.environ[SOCKETS] == str(own_folder("sockets"))
    assert len(os.environ[SOCKETS]) + SOCKET_NAME <= MAX_SOCKET
    monkeypatch.delenv(SOCKETS)
    monkeypatch.setattr("cluster.machines.vllm.own_folder", lambda kind: temporary / ("x" * MAX_SOCKET))
    keep_sockets_private()
    assert SOCKETS not in os.environ
