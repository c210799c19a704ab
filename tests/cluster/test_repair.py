"""Tables whose files were damaged, lost or left half-written: done again, ended or refused, and never half believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.errors import DamagedError, RunError
from cluster.run import Run
from cluster.settings import PoolSettings
from cluster.tables.commit import commit_path, publish, put_rows
from cluster.tables.gc import collect_all
from cluster.tables.plan_shards import plan_shards
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from tests.cluster.example_workers import NUMBERS, Count
from tests.cluster.stages import MakeRun, numbers, values


@pytest.mark.parametrize("harm", ["truncate", "flip"])
def test_a_damaged_shard_is_found_while_it_is_read_and_done_again(run: MakeRun, harm: str) -> None:
    one = run()
    source = one.execute(numbers())
    file = Path(one.storage.url) / source.files()[4][0]
    data = bytearray(file.read_bytes())
    data[100] ^= 8
    file.write_bytes(data[:-50] if harm == "truncate" else data)
    stage = Stage(
        "copy", NUMBERS, "copy", Count, {}, plan_shards(source, 25), {"s": source.fingerprint}, PoolSettings()
    )
    assert values(one.execute(stage)) == list(range(100))
    assert values(one.table("numbers")) == list(range(100))
    assert one.table("numbers").fingerprint == source.fingerprint


def test_a_damaged_shard_that_comes_out_otherwise_makes_what_was_made_from_it_invalid(run: MakeRun) -> None:
    one = run()
    stage = numbers(salt=True)
    source = one.execute(stage)
    (Path(one.storage.url) / source.files()[4][0]).unlink()
    copy = Stage("copy", NUMBERS, "copy", Count, {}, plan_shards(source, 25), {"s": source.fingerprint}, PoolSettings())
    with pytest.raises(RunError, match="came out with other rows"):
        one.execute(copy)
    assert one.table("numbers").fingerprint != source.fingerprint


def test_a_run_that_dies_between_withdrawal_and_repair_still_makes_what_was_made_from_it_invalid(run: MakeRun) -> None:
    one = run()
    stage = numbers(salt=True)
    source = one.execute(stage)
    before = source.fingerprint
    source.withdraw(source.files()[4][0])  # and here it dies
    again = Run(one.storage.url, one.settings, progress=one.progress)
    redone = again.execute(stage)
    assert redone.fingerprint != before
    assert redone.fingerprint == again.table("numbers").fingerprint
    assert one.storage.list("numbers/withdrawn") == []
    same = run("other").execute(numbers())
    fingerprint = same.fingerprint
    same.withdraw(same.files()[4][0])
    other = Run(same.storage.url, one.settings, progress=one.progress).execute(numbers())
    assert other.fingerprint == fingerprint
    assert other.files() == same.files()


@pytest.mark.parametrize("lost", ["nothing", "content", "record"])
def test_leftovers_are_not_collected_before_withdrawn_rows_are_compared(run: MakeRun, lost: str) -> None:
    """A run that died after the last record of a table, and before its end; a power cut may have taken the record."""
    one = run()
    table = one.execute(numbers(salt=True))
    before, first = table.fingerprint, table.commits()[4]
    record = Path(one.storage.url, commit_path("numbers", first.shard, table.plan.id))
    if lost == "content":
        record.write_bytes(b"")
    if lost == "record":
        record.unlink()
    table.withdraw(first.files[0][0])
    files = put_rows(table.storage, "numbers", first.shard, pa.table({"id": ["x"] * 10, "value": [1] * 10}))
    publish(table.storage, "numbers", table.plan.id, replace(first, files=files))
    collect_all(one.storage)  # as every `listwise run` does when it begins
    again = Run(one.storage.url, one.settings, progress=one.progress).execute(numbers(salt=True))
    assert again.fingerprint != before
    collect_all(one.storage)
    assert sorted(one.storage.list("numbers/data")) == sorted(file for file, _ in again.files())


def test_a_table_that_is_not_whole_is_not_read(run: MakeRun) -> None:
    table = run().execute(numbers())
    table.withdraw(table.files()[4][0])
    with pytest.raises(RunError, match=r"numbers: 9 of 10 shards are done\. Continue the run"):
        table.read()


def test_of_a_shard_that_was_withdrawn_twice_the_first_rows_are_compared(run: MakeRun) -> None:
    """Rows A, lost; rows B, lost before the table was whole again; rows B once more: nothing made from A is valid."""
    table = run().execute(numbers(salt=True))
    before, first = table.fingerprint, table.commits()[4]
    table.withdraw(first.files[0][0])
    files = put_rows(table.storage, "numbers", first.shard, pa.table({"id": ["x"], "value": [1]}, NUMBERS.schema))
    second = replace(first, files=files)
    for _ in range(2):
        publish(table.storage, "numbers", table.plan.id, second)
        table.withdraw(files[0][0])
    publish(table.storage, "numbers", table.plan.id, second)
    table.seal()
    assert table.fingerprint != before


def test_a_table_that_nobody_has_ended_is_ended_by_the_next_run(run: MakeRun) -> None:
    """A driver that dies after the last commit record, before the accounts and the collection."""
    one = run()
    table = one.execute(numbers())
    table.storage.remove(f"numbers/complete.{table.plan.id}.json")
    table.storage.put("numbers/data/00004.left.parquet", b"")
    again = Run(one.storage.url, one.settings, progress=one.progress).execute(numbers())
    assert again.sealed()
    assert not one.storage.exists("numbers/data/00004.left.parquet")


@pytest.mark.parametrize("cut", ["commits/00004", "complete"])
def test_a_record_that_a_power_cut_left_empty_counts_as_none(run: MakeRun, cut: str) -> None:
    one = run()
    table = one.execute(numbers())
    if cut != "complete":
        table.storage.remove(f"numbers/complete.{table.plan.id}.json")
    Path(one.storage.url, "numbers", f"{cut}.{table.plan.id}.json").write_bytes(b"")
    assert values(Run(one.storage.url, one.settings, progress=one.progress).execute(numbers())) == list(range(100))


def test_an_overwrite_that_dies_halfway_leaves_nothing_that_looks_done(
    run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every deletion in turn is the last one: then the stage is done again, or stands whole with all before it."""
    one = run()
    names = ("queries", "candidates", "scores/x")
    for name in names:
        one.execute(numbers(path=name))
    calls, real = [0], {name: getattr(Storage, name) for name in ("remove", "delete")}

    class DiesHereError(Exception):
        pass

    def dies(name: str) -> Callable[..., None]:
        def call(self: Storage, path: str) -> None:
            if calls[0] == 0:
                raise DiesHereError
            calls[0] -= 1
            real[name](self, path)

        return call

    for allowed in range(40):
        calls[0] = allowed
        with monkeypatch.context() as patched:
            for name in real:
                patched.setattr(Storage, name, dies(name))
            try:
                Run(one.storage.url, one.settings, overwrite=frozenset({"queries"}), progress=one.progress)
                break
            except DiesHereError:
                pass
        there = [one.storage.exists(f"{name}/plan.json") for name in names]
        assert there == sorted(there, reverse=True)
        assert all(
            values(one.table(name)) == list(range(100)) for name, is_there in zip(names, there, strict=True) if is_there
        )
    assert allowed > 3
    assert not any(one.storage.exists(f"{name}/plan.json") for name in names)


def test_a_shard_that_is_damaged_again_and_again_ends_the_run(run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    one = run()
    source = one.execute(numbers())
    path = Path(one.storage.url, source.files()[4][0])
    path.unlink()
    real = Table.seal

    def seal_and_lose(table: Table) -> None:
        real(table)
        path.unlink(missing_ok=True)

    monkeypatch.setattr(Table, "seal", seal_and_lose)
    copy = Stage("copy", NUMBERS, "copy", Count, {}, plan_shards(source, 25), {"s": source.fingerprint}, PoolSettings())
    with pytest.raises(DamagedError, match="the file is missing"):
        one.execute(copy)
