"""A shared folder is made by one process and read by all, at whatever point a process dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.machines.shared_folder import COMPLETE, UNUSED_S, shared_folder

PROGRAM = """
import os, sys, time
from pathlib import Path
from cluster.machines.shared_folder import shared_folder

begun, seconds = Path(sys.argv[1]), float(sys.argv[2])

def make(folder):
    with begun.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    (folder / "half").write_text("half")
    time.sleep(seconds)
    (folder / "whole").write_text("whole")

print((shared_folder("thing", make) / "whole").read_text(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@contextlib.contextmanager
def asking(begun: Path, seconds: float = 0.0) -> Iterator[subprocess.Popen[str]]:
    """A process that asks for the folder, prints its content, and lives until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(begun), str(seconds)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def answer(process: subprocess.Popen[str]) -> str:
    """The content that the process found."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def makers(begun: Path) -> list[int]:
    """Process ids of those that began to fill the folder."""
    return [int(line) for line in begun.read_text().split()] if begun.exists() else []


def wait_for_maker(begun: Path) -> int:
    limit = time.monotonic() + 30
    while not makers(begun):
        assert time.monotonic() < limit, "no process began to fill the folder"
        time.sleep(0.01)
    return makers(begun)[0]


def age(folder: Path) -> None:
    """Sets the time of the last opening back, so that the folder counts as unused."""
    long_ago = time.time() - UNUSED_S - 60
    os.utime(folder / COMPLETE, (long_ago, long_ago))


def test_of_many_processes_one_fills_the_folder_and_all_find_it_complete(temp: Path) -> None:
    begun = temp / "begun"
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(asking(begun, 0.5)) for _ in range(4)]
        assert [answer(process) for process in processes] == ["whole"] * 4
    assert len(makers(begun)) == 1


def test_when_the_process_that_fills_is_killed_one_that_waits_begins_anew(temp: Path) -> None:
    begun = temp / "begun"
    with asking(begun, 600):
        maker = wait_for_maker(begun)
        with asking(begun) as waiting:
            os.kill(maker, signal.SIGKILL)
            assert answer(waiting) == "whole"
    assert len(makers(begun)) == 2


def test_an_error_while_filling_is_raised_and_leaves_no_folder(temp: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        shared_folder("thing", fail)
    assert not list(temp.rglob("thing"))
    assert shared_folder("thing", lambda folder: None).name == "thing"


def test_files_are_on_the_disk_before_the_folder_is_marked_complete(
    temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def sync(descriptor: int) -> None:
        assert not list(temp.rglob(COMPLETE))
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fsync", sync)
    shared_folder("thing", lambda folder: (folder / "a").touch())
    assert synced == ["a", "thing"]


def test_a_folder_without_readers_is_removed_after_an_hour_and_not_before(temp: Path) -> None:
    begun = temp / "begun"
    with asking(begun) as reader:
        assert answer(reader) == "whole"
        folder = next(temp.rglob("thing"))
        age(folder)
        shared_folder("second", lambda folder: None)
        assert (folder / "whole").exists()  # its reader lives
    shared_folder("third", lambda folder: None)
    assert not folder.exists()
    assert (folder.parent / "second").exists()  # it was opened a moment ago


def test_a_new_reader_sets_the_time_of_the_last_opening(temp: Path) -> None:
    begun = temp / "begun"
    with asking(begun) as reader:
        answer(reader)
    folder = next(temp.rglob("thing"))
    age(folder)
    with asking(begun) as reader:
        assert answer(reader) == "whole"
    shared_folder("second", lambda folder: None)
    assert folder.exists()
    assert len(makers(begun)) == 1
