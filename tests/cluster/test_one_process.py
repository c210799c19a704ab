"""Two runs, one workdir: one does a stage, the other waits for its record, or takes over when the first one dies."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import InputError
from cluster.run import Run
from cluster.settings import ClusterSettings
from tests.chaos.harness import until

DRIVER = """
import sys, time
from pathlib import Path
from cluster.run import Run
from cluster.settings import ClusterSettings

workdir, name, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])

def produce():
    with (Path(workdir) / "done_by").open("a") as file:
        file.write(name + "\\n")
    time.sleep(seconds)
    return {"by": name}

with Run(workdir, ClusterSettings()) as run:
    print(run.execute_in_process("training", {"rate": 1}, produce, title="training")["by"], flush=True)
"""


def start(workdir: Path, name: str, seconds: float = 0.0) -> subprocess.Popen:
    command = [sys.executable, "-c", DRIVER, str(workdir), name, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def done_by(workdir: Path) -> list[str]:
    file = workdir / "done_by"
    return file.read_text().split() if file.exists() else []


def test_the_second_run_waits_for_the_record_of_the_first(tmp_path: Path) -> None:
    first = start(tmp_path, "first", seconds=4)
    until(lambda: done_by(tmp_path) == ["first"], "the first run is at work")
    second = start(tmp_path, "second")
    said = second.communicate(timeout=60)[0]
    assert f"training: process {first.pid} on " in said.replace("\n", " ")
    assert said.splitlines()[-1] == "first", "the record of the other run"
    assert first.wait(timeout=60) == second.returncode == 0
    assert done_by(tmp_path) == ["first"]


def test_the_second_run_takes_over_from_one_that_is_killed(tmp_path: Path) -> None:
    first = start(tmp_path, "first", seconds=600)
    until(lambda: done_by(tmp_path) == ["first"], "the first run is at work")
    second = start(tmp_path, "second")
    assert second.stdout is not None
    assert "works on it already" in "".join(second.stdout.readline() for _ in range(3)).replace("\n", " ")
    assert done_by(tmp_path) == ["first"]
    first.send_signal(signal.SIGKILL)
    assert second.communicate(timeout=60)[0].splitlines()[-1] == "second"
    assert done_by(tmp_path) == ["first", "second"]


def test_what_another_run_works_on_is_not_removed(tmp_path: Path) -> None:
    first = start(tmp_path, "first", seconds=600)
    until(lambda: done_by(tmp_path) == ["first"], "the first run is at work")
    kept = tmp_path / "lists" / "plan.json"
    kept.parent.mkdir()
    kept.write_text("{}")
    with pytest.raises(InputError, match=rf"process {first.pid} on .* works on training .* nothing was removed"):
        Run(str(tmp_path), ClusterSettings(), overwrite=frozenset({"lists"}))
    assert kept.exists() and (tmp_path / "training" / "plan.json").exists()
    Run(str(tmp_path), ClusterSettings(), overwrite=frozenset({"evaluation"}))  # which nobody works on
    first.kill()
    first.wait()
    Run(str(tmp_path), ClusterSettings(), overwrite=frozenset({"training"}))
    assert not (tmp_path / "training").exists()
