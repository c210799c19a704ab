"""A full disk: the run waits or ends with a clear error, committed work is kept, and the next run does the rest."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import RunError
from cluster.run import Run
from cluster.settings import ClusterSettings, PoolSettings
from cluster.watch.progress import Progress
from cluster.workers.stage import Stage
from tests.chaos.harness import leftovers, until
from tests.chaos.ledger import note
from tests.chaos.workers import NUMBERS, Recorded
from tests.cluster.example_workers import shards

SHARDS = 60


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT TRIED: a full disk needs a small tmpfs, and mounting is not permitted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fills the file system with one file; returns the file."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


def run_on(folder: Path, storage_timeout_s: float) -> Run:
    settings = ClusterSettings(cpus=2, storage_timeout_s=storage_timeout_s)
    return Run(str(folder / "run"), settings, progress=Progress(quiet=True))


def commits(folder: Path) -> int:
    return len(list((folder / "run" / "first" / "commits").glob("*.json")))


@pytest.mark.usefixtures("local_ray")
def test_a_run_on_a_full_disk_waits_or_ends_with_a_clear_error_and_loses_nothing(
    small: Path, dice: random.Random, marker: str
) -> None:
    arguments = {"table": "first", "marker": marker, "seconds": 0.1, "poison": {3: "reject"}}
    pool = PoolSettings(cpus=0.5)
    stage = Stage("first", NUMBERS, "first", Recorded, arguments, shards(10 * SHARDS, 10), {"v": 1}, pool)
    ballast: list[Path] = []

    def fill_soon() -> None:
        until(lambda: commits(small) >= 1, "the first commit")
        time.sleep(dice.uniform(0.0, 0.5))
        ballast.append(fill(small))

    filler = threading.Thread(target=fill_soon, daemon=True)
    filler.start()
    with pytest.raises(RunError, match="No space left on device") as caught:
        run_on(small, storage_timeout_s=1.0).execute(stage)
    filler.join()
    assert "Committed work is kept; the same command continues from it." in str(caught.value)
    assert "\n" not in str(caught.value)
    committed = commits(small)
    assert 1 <= committed < SHARDS
    ballast.pop().unlink()
    recovery_s: list[float] = []

    def fill_for_a_while() -> None:
        until(lambda: commits(small) > committed, "another commit")
        time.sleep(dice.uniform(0.0, 0.5))
        fill(small)
        before = commits(small)
        time.sleep(dice.uniform(0.5, 2.0))  # how long the disk stays full
        (small / "ballast").unlink()
        recovery_s.append(until(lambda: commits(small) > before, "a commit after there was room again"))

    filler = threading.Thread(target=fill_for_a_while, daemon=True)
    filler.start()
    run = run_on(small, storage_timeout_s=60.0)
    table = run.execute(stage)
    filler.join()
    assert table.read()["value"].to_pylist() == [number for number in range(10 * SHARDS) if number != 3]
    assert [(reject["row"], reject["shard"]) for reject in table.rejects()] == [("3", "00000")]
    assert leftovers(run.storage.url, "first") == []
    note("disk full beyond the limit: run ended, rerun completed", None)
    note("disk full for a while: until the next commit after there was room", recovery_s[0])
