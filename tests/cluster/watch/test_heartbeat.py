"""The status of a running table and its lines on the terminal, from heartbeats written by hand."""

from __future__ import annotations

import io
import os
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from cluster.tables.commit import Commit, publish
from cluster.tables.plan import Plan
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.watch.estimate import TimeLeft
from cluster.watch.heartbeat import (
    Heartbeat,
    Totals,
    WorkerState,
    heartbeat_path,
    last_heartbeat,
    shard_bits,
    this_driver,
)
from cluster.watch.phrases import describe, duration, span
from cluster.watch.progress import Progress
from cluster.watch.status import status
from cluster.workers.process import identify
from cluster.workers.stage_log import StageLog
from tests.cluster.example_workers import NUMBERS, shards


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """A plan of twenty shards of ten rows."""
    storage = Storage(str(tmp_path))
    storage.put("numbers/plan.json", Plan.new(NUMBERS, shards(200, 10), {"v": 1}).to_bytes())
    return Table.open(storage, "numbers")


def commit(table: Table, *numbers: int) -> None:
    for number in numbers:
        files = ((f"numbers/data/{number:05d}.x.parquet", 9),)
        record = Commit(f"{number:05d}", files, 9, 10, {"small": 1}, 0, 50, 2.0, "w0", "node/abc", {"seen": 10})
        publish(table.storage, table.path, table.plan.id, record)


def heartbeat(table: Table, **changes: object) -> Heartbeat:
    """A heartbeat that counts everything committed now; it is written to storage."""
    commits = Table.open(table.storage, table.path).commits()
    workers = [
        WorkerState("w0", "host/abc", True, [("00007", 12.0)], 1.0),
        WorkerState("w1", "host/def", True, [("00008", 40.0)], 2.5, slow=True),
    ]
    done = shard_bits(table.plan.shards, {commit.shard for commit in commits})
    beat = Heartbeat("running", "", time.time(), this_driver(), table.plan.id, 60.0, 20, 200, Totals.of(commits), done,
                     123.4, 5678.0, 2, ["00003"], 4, workers, TimeLeft(100.0, 150.0, 220.0))  # fmt: skip
    beat = replace(beat, **changes)
    table.storage.put(heartbeat_path(table.path), beat.to_bytes())
    return beat


def table_status(table: Table) -> dict:
    (record,) = status(Storage(table.storage.url))
    return record


def test_a_heartbeat_reads_back_as_it_was_written(table: Table) -> None:
    commit(table, 0, 7, 8, 19)
    beat = heartbeat(table)
    assert last_heartbeat(table.storage, table.path, table.plan.id) == beat
    assert beat.counted_shards(table.plan.shards) == {"00000", "00007", "00008", "00019"}


def test_status_shows_what_runs_what_fails_and_who_is_slow(table: Table) -> None:
    commit(table, 0, 1)
    heartbeat(table)
    record = table_status(table)
    assert (record["state"], record["running"], record["failed"], record["shards_done"]) == ("running", 2, 1, 2)
    assert (record["all_rows_per_s"], record["all_tokens_per_s"]) == (123.4, 5678.0)
    assert record["left_s"] == [100.0, 150.0, 220.0]
    assert record["slow"] == [{"worker": "w1", "node": "host/def", "times": 2.5}]


def test_status_reads_only_the_commit_records_that_the_driver_had_not_counted(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(table, *range(12))
    heartbeat(table)
    commit(table, 15, 16)
    read: list[str] = []
    get = Storage.get
    monkeypatch.setattr(Storage, "get", lambda self, path: read.append(path) or get(self, path))
    record = table_status(table)
    assert sorted(path.split("/")[2][:5] for path in read if "/commits/" in path) == ["00015", "00016"]
    totals = Totals.of(Table.open(table.storage, table.path).commits())
    keys = ("shards_done", "rows", "drops", "tokens", "stats", "seconds")
    assert [record[key] for key in keys] == [
        14, totals.rows, totals.drops, totals.tokens, totals.stats, totals.seconds
    ]  # fmt: skip


def test_status_is_exact_after_a_damaged_shard_was_withdrawn(table: Table) -> None:
    commit(table, *range(12))
    heartbeat(table)
    table.withdraw("numbers/data/00004.x.parquet")
    assert (table_status(table)["shards_done"], table_status(table)["rows"]) == (11, 99)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "running"),
        ({"driver": (this_driver()[0], os.getpid(), -1.0)}, "gone"),  # another process has its id now
        ({"driver": ("elsewhere", 1, 1.0)}, "running"),
        ({"driver": ("elsewhere", 1, 1.0), "at": time.time() - 600}, "silent"),
        ({"at": time.time() - 600}, "running"),  # its process lives and only waits, perhaps for storage
        ({"state": "failed", "why": "no room"}, "failed"),
        ({"state": "interrupted"}, "interrupted"),
        ({"plan": "another"}, "stopped"),
    ],
)
def test_a_stage_is_called_running_only_while_its_driver_works(table: Table, changes: dict, state: str) -> None:
    heartbeat(table, **changes)
    record = table_status(table)
    assert record["state"] == state
    assert record["running"] == (2 if state == "running" else 0)
    assert record["why"] == changes.get("why", "")


def test_a_heartbeat_that_cannot_be_parsed_counts_as_absent(table: Table) -> None:
    commit(table, 0)
    table.storage.put(heartbeat_path(table.path), b'{"plan": 1')
    assert (table_status(table)["state"], table_status(table)["shards_done"]) == ("stopped", 1)


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_the_whole_heartbeat_within_its_width(table: Table, width: int) -> None:
    commit(table, 0, 1)
    screen = io.StringIO()
    console = Console(file=screen, width=width, force_terminal=True, color_system=None, legacy_windows=False)
    with Progress(console=console).task("numbers", 200, "rows") as handle:
        handle.resumed(20)
        handle.show(heartbeat(table))
        shown = Console(file=io.StringIO(), width=width, record=True)
        shown.print(handle)
    text = shown.export_text()
    assert max(len(line) for line in text.splitlines()) <= width
    flat = " ".join(text.split())
    for phrase in ("20/200 rows", "2/20 shards", "2 running", "1 failed", "123 rows/s", "5,678 tokens/s",
                  "2–4 min left", "w1 on host/def takes 2.5 × as long", "00008 for 40 s"):  # fmt: skip
        assert phrase in flat, (phrase, flat)
    assert "numbers: 0 in " in screen.getvalue()


def test_without_a_terminal_a_stage_is_one_line() -> None:
    screen = io.StringIO()
    with Progress(console=Console(file=screen, width=80)).task("numbers", 10, "rows") as handle:
        handle.advance(10, 30)
    assert screen.getvalue().count("\n") == 1
    assert screen.getvalue().startswith("numbers: 10 in 0.0 s (")


def test_durations_and_ranges_are_shown_as_text(table: Table) -> None:
    assert [duration(s) for s in (0.4, 99, 100, 3600, 7200, 200_000)] == [
        "0 s", "99 s", "2 min", "60 min", "2 h 00 min", "2 d 7 h"
    ]  # fmt: skip
    assert span(TimeLeft(60, 70, 80)) == "60–80 s"
    assert span(TimeLeft(60, 70, 300)) == "60 s – 5 min"
    starting = replace(heartbeat(table), running=0, workers=[WorkerState("w0", "-", False, [])], left=None)
    assert "1 worker starting" in describe(starting)[0]


def test_a_driver_is_identified_by_the_start_of_its_process() -> None:
    assert this_driver()[1:] == identify(psutil.Process())


class Puts:
    """Stands in for background writes; keeps the content that would be written."""

    def __init__(self) -> None:
        self.latest: dict[str, bytes] = {}

    def put(self, path: str, data: bytes) -> None:
        self.latest[path] = data


def test_every_line_of_a_message_becomes_a_full_line_of_the_log(tmp_path: Path) -> None:
    storage, puts = Storage(str(tmp_path)), Puts()
    log = StageLog(storage, "scores/minilm", puts)  # type: ignore[arg-type]
    log.add("first\nsecond", "w0", "host/abc", "00001")
    log.close()
    lines = (tmp_path / "logs/scores.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        f"table=scores/minilm worker=w0 node=host/abc shard=00001 {text}" for text in ("first", "second")
    ]
