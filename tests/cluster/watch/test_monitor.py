"""The reports of a monitor, made from a pool that holds only what a monitor reads, without Ray."""

from __future__ import annotations

import io
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cluster.settings import PoolSettings
from cluster.tables.background_writes import BackgroundWrites
from cluster.tables.commit import Commit
from cluster.tables.plan import Plan
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.watch.heartbeat import Heartbeat, last_heartbeat
from cluster.watch.monitor import Monitor
from cluster.watch.progress import TaskHandle
from cluster.watch.status import status
from launcher.outcome import print_status
from tests.cluster.example_workers import NUMBERS, shards


def member(name: str, seconds: float, running_s: float) -> SimpleNamespace:
    """A worker that took `seconds` for each shard of ten units, and processes one since `running_s` seconds."""
    attempt = SimpleNamespace(name=f"shard of {name}", running_since=time.monotonic() - running_s)
    return SimpleNamespace(
        name=name, node=f"node of {name}", ready=True, at_work=[attempt], durations=deque([(10, seconds)] * 8)
    )


def pool(*members: SimpleNamespace) -> Any:
    tasks = SimpleNamespace(failed=3, failing={"00005"})
    durations = [duration for member in members for duration in member.durations]
    return SimpleNamespace(
        members=list(members), tasks=tasks, slots=len(members), durations=durations, pool=PoolSettings()
    )


@pytest.fixture
def table(tmp_path: Path) -> Table:
    storage = Storage(str(tmp_path))
    storage.put("numbers/plan.json", Plan.new(NUMBERS, shards(1000, 10), {"v": 1}).to_bytes())
    return Table.open(storage, "numbers")


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.watch.monitor.StageMetrics", lambda table: SimpleNamespace(show=lambda beat: None))


def written(table: Table) -> Heartbeat:
    beat = last_heartbeat(table.storage, "numbers", table.plan.id)
    assert beat
    return beat


def test_a_worker_is_slow_by_its_finished_shards_or_by_the_one_that_it_does_not_finish(table: Table) -> None:
    writes = BackgroundWrites(table.storage)
    with Monitor(table, TaskHandle("numbers", 1000, "number"), writes) as monitor:
        monitor.update(pool(member("a", 1.0, 0.5), member("b", 1.1, 0.5), member("c", 3.0, 0.5), member("d", 1.0, 9.0)))
        writes.close()
        beat = written(table)
    assert [(worker.name, worker.node) for worker in beat.slow] == [("c", "node of c"), ("d", "node of d")]
    assert beat.slow[0].times == pytest.approx(3.0)
    assert (beat.state, beat.running, beat.failing, beat.failures) == ("running", 4, ["00005"], 3)
    assert beat.left
    # 100 shards of 1.5 s on four workers
    assert beat.left.low < 100 * 1.5 / 4 < beat.left.high


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "done"), (RuntimeError("no room\nat all"), "failed"), (KeyboardInterrupt(), "interrupted")],
)
def test_the_last_heartbeat_has_the_final_state_and_counts_all(
    table: Table, error: BaseException | None, state: str
) -> None:
    writes, handle = BackgroundWrites(table.storage), TaskHandle("numbers", 1000, "number")
    try:
        with Monitor(table, handle, writes) as monitor:
            monitor.update(pool(member("a", 1.0, 0.5)))
            for name in ("00000", "00001"):
                commit = Commit(name, (), 10, 10, {}, 0, 50, 1.0, "a", "node of a")
                table.add_commit(commit)
                monitor.done(commit)
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        pass
    writes.close()
    beat = written(table)
    assert (beat.state, beat.why) == (state, "no room" if state == "failed" else "")
    assert (beat.totals.shards, beat.totals.rows, beat.totals.tokens) == (2, 20, 100)
    assert beat.counted_shards(table.plan.shards) == {"00000", "00001"}
    assert (beat.running, beat.workers, handle.done, handle.tokens) == (0, [], 20, 100)


def test_a_heartbeat_is_written_every_few_seconds_however_many_shards_end(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts: list[str] = []
    with Monitor(
        table, TaskHandle("numbers", 1000, "number"), SimpleNamespace(put=lambda path, _: puts.append(path))
    ) as monitor:
        now = time.monotonic()
        for number in range(1000):
            monkeypatch.setattr("cluster.watch.monitor.time.monotonic", lambda number=number: now + number / 50)
            monitor.done(Commit(f"{number:05d}", (), 10, 10, {}, 0, 50, 1.0, "a", "node of a"))
            monitor.update(pool(member("a", 1.0, 0.5)))
        monkeypatch.undo()
        assert 4 <= len(puts) <= 5


def test_a_background_write_that_fails_is_dropped_and_later_ones_are_done(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    storage = Storage(str(tmp_path))
    writes = BackgroundWrites(storage)
    writes.put("file/progress.json", b"{}")
    writes.put("log", b"1")
    writes.close()
    assert storage.get("log") == b"1"


@pytest.mark.parametrize(("is_read", "cores"), [(True, (2.0, 1.5)), (False, (None, None))])
def test_status_shows_the_cores_of_the_workers_that_did_shards_and_none_where_no_pool_was_read(
    table: Table, is_read: bool, cores: tuple[float | None, float | None]
) -> None:
    writes = BackgroundWrites(table.storage)
    with Monitor(table, TaskHandle("numbers", 1000, "number"), writes) as monitor:
        if is_read:
            monitor.update(pool(member("a", 1.0, 0.5)))
        for name, worker in (("00000", "a"), ("00001", "b")):
            monitor.done(Commit(name, (), 10, 10, {}, 0, 50, 2.0, worker, "here", cpu_s=1.5, held_s=2.0))
    writes.close()
    console = Console(file=io.StringIO(), width=200)
    print_status(table.storage, console)
    (stage,) = status(table.storage)
    assert (stage["cores_held"], stage["cores_used"]) == cores
    assert ("1.5 of 2" in console.file.getvalue()) == is_read
