"""Deaths of workers: at random moments, inside a write, and between data file and commit record."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.run import Run
from cluster.schemas import TableSchema
from cluster.settings import PoolSettings
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from tests.chaos.driver import Spec
from tests.chaos.harness import alive, begun, in_work, kill, leftovers, recovered, until
from tests.chaos.ledger import note
from tests.chaos.workers import BLOBS, NUMBERS, DiesBeforeRecord, DiesInWrite, Recorded
from tests.cluster.example_workers import shards

MakeRun = Callable[..., Run]
POOL = PoolSettings(cpus=0.5)


class Working(threading.Thread):
    """A thread that executes a stage while the test causes faults."""

    def __init__(self, run: Run, stage: Stage) -> None:
        super().__init__(daemon=True)
        self.engine, self.stage = run, stage
        self.table: Table | None = None
        self.start()

    def run(self) -> None:
        self.table = self.engine.execute(self.stage)

    def finish(self) -> Table:
        self.join(120)
        assert self.table is not None, "the stage did not finish"
        return self.table


def stage(worker: type, rows: int, rows_per_shard: int, schema: TableSchema = NUMBERS, **arguments: Any) -> Stage:
    planned = shards(rows, rows_per_shard)
    return Stage("first", schema, "first", worker, {"table": "first"} | arguments, planned, {"v": 1}, POOL)


def ids(table: Table) -> list[int]:
    return [int(name) for name in table.read(["id"])["id"].to_pylist()]


@pytest.mark.slow
def test_workers_killed_at_random_moments_lose_nothing(run: MakeRun, dice: random.Random, marker: str) -> None:
    engine = run()
    spec = Spec(engine.storage.url, marker)
    working = Working(engine, stage(Recorded, 300, 5, marker=marker, seconds=0.1))
    times = []
    for _ in range(3):
        until(lambda: in_work(spec) or not working.is_alive(), "a shard in work")
        time.sleep(dice.uniform(0.0, 0.3))
        living = [pid for pid in {pid for _, _, pid in begun(marker)} if alive(pid)]
        if living and working.is_alive():
            lost = in_work(spec, {victim := dice.choice(living)})
            kill(victim)
            if lost:
                times.append(until(lambda lost=lost: recovered(spec, lost), f"{lost}"))
    assert ids(working.finish()) == list(range(300))
    assert engine.table("first").rejects() == []
    assert times, "no worker was at work when it was killed"
    for seconds in times:
        note("worker killed at a random moment", seconds)


def test_a_worker_killed_inside_its_write_loses_nothing(
    run: MakeRun, dice: random.Random, marker: str, tmp_path: Path
) -> None:
    engine, flag = run(), tmp_path / "flag"
    spec = Spec(engine.storage.url, marker)
    folder = str(Path(engine.storage.url, "first", "data"))
    work = stage(
        DiesInWrite, 12, 2, BLOBS, marker=marker, folder=folder, flag=str(flag), seed=dice.randrange(10**6)
    )  # fmt: skip
    working = Working(engine, work)
    until(flag.exists, "a death inside a write")
    lost = in_work(spec)
    seconds = until(lambda: recovered(spec, lost), "recovery")
    table = working.finish()
    assert ids(table) == list(range(12))
    expected = [random.Random(number).randbytes(8 * 2**20) for number in range(12)]
    assert table.read(["blob"])["blob"].to_pylist() == expected
    assert leftovers(spec.workdir, "first") == [], "the end of the stage removes files without a record"
    note("worker killed inside its write", seconds)


def test_a_worker_killed_between_data_file_and_record_loses_nothing(
    run: MakeRun, dice: random.Random, marker: str, tmp_path: Path
) -> None:
    engine, flag = run(), tmp_path / "flag"
    spec = Spec(engine.storage.url, marker)
    chosen = f"{dice.randrange(20):05d}"
    work = stage(DiesBeforeRecord, 100, 5, marker=marker, shard=chosen, flag=str(flag), seconds=0.02)
    working = Working(engine, work)
    until(flag.exists, "a death before the commit record")
    seconds = until(lambda: committed_shard(spec, chosen), "its shard")
    table = working.finish()
    first_file = flag.read_text()
    assert first_file not in [file for file, _ in table.files()], "the second attempt wrote another file"
    assert not engine.storage.exists(first_file), "the first file is removed"
    assert leftovers(spec.workdir, "first") == []
    assert ids(table) == list(range(100))
    note("worker killed between data file and commit record", seconds)


def committed_shard(spec: Spec, shard: str) -> bool:
    return recovered(spec, {("first", shard)})


@pytest.mark.slow
def test_a_worker_that_is_stopped_and_does_not_answer_is_killed_and_replaced(
    run: MakeRun, dice: random.Random, marker: str
) -> None:
    """A process that got SIGSTOP neither works nor ends when it is asked to."""
    engine = run(shard_timeout_s=4.0)
    spec = Spec(engine.storage.url, marker)
    working = Working(engine, stage(Recorded, 80, 4, marker=marker, seconds=0.2))
    until(lambda: in_work(spec), "a shard in work")
    time.sleep(dice.uniform(0.0, 0.3))
    victim = dice.choice([pid for _, _, pid in begun(marker) if alive(pid)])
    os.kill(victim, signal.SIGSTOP)
    lost = in_work(spec, {victim})
    seconds = until(lambda: recovered(spec, lost), "recovery")
    assert ids(working.finish()) == list(range(80))
    assert engine.table("first").rejects() == []
    assert not alive(victim), "a process of the stage lives after its end"
    if lost:
        note("worker stopped (SIGSTOP), found by the time limit of 4 s", seconds)
