"""Output that a shell has closed, cut off, filled or given another encoding ends no command with a traceback."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.launcher.workdir import complete_workdir
from tests.pipeline import LISTWISE


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streams") / "run"
    complete_workdir(path)
    return path


@pytest.mark.parametrize(
    ("shell", "status"),
    [
        ("{listwise} status {run} | head -c 1", 0),
        ("{listwise} status {run} >&-", 0),
        ("{listwise} status {run} >&- 2>&-", 0),
        ("PYTHONIOENCODING=ascii {listwise} sample --help", 0),
        ("COLUMNS=0 {listwise} status {run} | grep passages", 0),
        ("COLUMNS=many {listwise} status {run} | grep passages", 0),
        ("env -u TERM {listwise} status {run}", 0),
        ("{listwise} status {run} > /dev/full", 1),
        ("{listwise} status --json {run} > /dev/full", 1),
    ],
)
def test_a_command_ends_as_a_program_of_the_shell_does(shell: str, status: int, workdir: Path) -> None:
    command = shell.format(listwise=LISTWISE, run=workdir)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    if status:
        assert done.stderr == "error: standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("words", ["status {run}", "status --json {run}", "sample --help", "--help"])
def test_a_command_whose_reader_has_left_ends_as_other_programs_do(words: str, workdir: Path) -> None:
    """`head` ends before a slow command has written anything, so that its first line meets a closed pipe."""
    shell = f"{LISTWISE} {words.format(run=workdir)} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["141"], done.stderr
    assert done.stderr == ""
