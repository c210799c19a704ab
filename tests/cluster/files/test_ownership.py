"""One process at a time: another waits, is told who it is, and follows when the owner ends, however it ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.files.ownership import owned

HOLD = """
import sys, time
from pathlib import Path
from cluster.files.ownership import owned
with owned(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def owner(tmp_path: Path):
    """A process that owns `tmp_path / "lock"`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "mine\n"
    yield process
    process.kill()
    process.wait()


def test_another_process_is_told_who_owns_it(tmp_path: Path, owner: subprocess.Popen) -> None:
    with pytest.raises(TimeoutError, match=f"^process {owner.pid} on "), owned(tmp_path / "lock", wait_s=0):
        pass


def test_who_waits_is_told_once_and_takes_over_from_an_owner_that_is_killed(
    tmp_path: Path, owner: subprocess.Popen
) -> None:
    told: list[str] = []

    def kill(name: str) -> None:
        told.append(name)
        owner.kill()

    begun = time.monotonic()
    with owned(tmp_path / "lock", wait_s=30, on_wait=kill):
        assert time.monotonic() - begun < 10
        assert len(told) == 1 and str(owner.pid) in told[0]
        with pytest.raises(TimeoutError), owned(tmp_path / "lock", wait_s=0):  # through another file handle
            pass
    with owned(tmp_path / "lock", wait_s=0):
        pass


def test_an_owner_whose_program_has_started_another_gives_it_back_all_the_same(tmp_path: Path) -> None:
    """A child that outlives the owner does not keep the lock."""
    with owned(tmp_path / "lock"):
        child = subprocess.Popen(["sleep", "60"])
    try:
        with owned(tmp_path / "lock", wait_s=0):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_file_system_without_locks_is_named_in_the_log(tmp_path: Path, monkeypatch, caplog) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("cluster.files.ownership.fcntl.flock", refuse)
    with owned(tmp_path / "lock"):
        assert "this file system has no locks (No locks available)" in caplog.text
