"""The hand-over of devices between stages: a process that still lives is killed if it was recorded, else named."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import RunError
from cluster.run import Run
from cluster.settings import PoolSettings
from cluster.workers.stage import Stage
from tests.chaos.harness import alive, kill
from tests.chaos.workers import NUMBERS
from tests.cluster.example_workers import Count, shards

MakeRun = Callable[..., Run]
POOL = PoolSettings(cpus=0.5, resources={"device": 1})


class Holder(Count):
    """A worker that writes the ids of its processes to a folder, and those of the previous stage that still live.

    Its child process leaves Ray's process group, as child processes of some engines do.

    Args:
        own: folder for the ids of its processes.
        before: folder with the ids of the previous stage's processes.
        adopted: whether the child process also leaves this process, so that the engine cannot find it as a child.
    """

    def __init__(self, own: str, before: str, adopted: bool = False) -> None:
        super().__init__(seconds=0.1)
        import os

        previous = Path(before).iterdir() if Path(before).is_dir() else ()
        still_alive = [path.name for path in previous if alive(int(path.name))]
        Path(own).mkdir(exist_ok=True)
        Path(own, str(os.getpid())).write_text(" ".join(still_alive))
        if adopted:
            command = ["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"]
            pid = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        else:
            pid = str(subprocess.Popen(["sleep", "1000"], start_new_session=True).pid)
        Path(own, pid).write_text("")


def stage(name: str, own: Path, before: Path, **options: bool) -> Stage:
    arguments = {"own": str(own), "before": str(before), **options}
    return Stage(name, NUMBERS, name, Holder, arguments, shards(40, 5), {"v": 1}, POOL)


def pids(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir()]


def test_a_stage_gets_devices_only_when_all_processes_of_the_previous_one_have_ended(
    run: MakeRun, tmp_path: Path
) -> None:
    engine = run()
    generating, scoring = tmp_path / "generating", tmp_path / "scoring"
    engine.execute(stage("a", generating, tmp_path / "none"))
    engine.execute(stage("b", scoring, generating))
    for folder in (generating, scoring):
        assert len(pids(folder)) in (2, 4), "one or two workers, each with its child"
    assert {path.read_text() for path in scoring.iterdir()} == {""}
    assert not [pid for pid in [*pids(generating), *pids(scoring)] if alive(pid)]


def test_an_orphan_that_was_not_recorded_is_named_and_left_alive(run: MakeRun, tmp_path: Path) -> None:
    engine = run(handover_timeout_s=4.0)
    unrelated = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    own = tmp_path / "own"
    try:
        with pytest.raises(RunError, match=r"stage a: 4 s after its end, this is still held") as caught:
            engine.execute(stage("a", own, tmp_path / "none", adopted=True))
        orphans = [pid for pid in pids(own) if alive(pid)]
        named = {int(pid) for pid in re.findall(r"pid (\d+) \(sleep, not recorded, left alone\)", str(caught.value))}
        assert named == set(orphans)
        assert len(orphans) == len(pids(own)) / 2, "the workers are ended, their orphans are not"
        assert alive(unrelated.pid)
        assert str(unrelated.pid) not in str(caught.value)
        for pid in orphans:
            kill(pid)
        table = engine.execute(stage("a", own, tmp_path / "none"))
        assert table.read()["value"].to_pylist() == list(range(40))
    finally:
        unrelated.kill()
        unrelated.wait()
        for pid in pids(own):
            kill(pid)
