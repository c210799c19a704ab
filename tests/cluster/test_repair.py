"""Tables with damaged, lost or half-written files: a run repairs them, ends them or refuses them."""

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
    engine = run()
    source = engine.execute(numbers())
    file = Path(engine.storage.url) / source.files()[4][0]
    data = bytearray(file.read_bytes())
    data[100] ^= 8
    file.write_bytes(data[:-50] if harm == "truncate" else data)
    stage = Stage(
        "copy", NUMBERS, "copy", Count, {}, plan_shards(source, 25), {"s": source.fingerprint}, PoolSettings()
    )
    assert values(engine.execute(stage)) == list(range(100))
    assert values(engine.table("numbers")) == list(range(100))
    assert engine.table("numbers").fingerprint == source.fingerprint


def test_tables_made_from_a_damaged_shard_are_invalid_if_the_redone_shard_has_other_rows(run: MakeRun) -> None:
    engine = run()
    stage = numbers(salt=True)
    source = engine.execute(stage)
    (Path(engine.storage.url) / source.files()[4][0]).unlink()
    copy = Stage("copy", NUMBERS, "copy", Count, {}, plan_shards(source, 25), {"s": source.fingerprint}, PoolSettings())
    with pytest.raises(RunError, match="came out with other rows"):
        engine.execute(copy)
    assert engine.table("numbers").fingerprint != source.fingerprint


def test_tables_made_from_a_withdrawn_shard_are_invalid_even_if_the_run_dies_before_its_repair(run: MakeRun) -> None:
    engine = run()
    stage = numbers(salt=True)
    source = engine.execute(stage)
    before = source.fingerprint
    source.withdraw(source.files()[4][0])  # the run dies here
    next_run = Run(engine.storage.url, engine.settings, progress=engine.progress)
    redone = next_run.execute(stage)
    assert redone.fingerprint != before
    assert redone.fingerprint == next_run.table("numbers").fingerprint
    assert engine.storage.list("numbers/withdrawn") == []
    same = run("other").execute(numbers())
    fingerprint = same.fingerprint
    same.withdraw(same.files()[4][0])
    other = Run(same.storage.url, engine.settings, progress=engine.progress).execute(numbers())
    assert other.fingerprint == fingerprint
    assert other.files() == same.files()


def test_a_shard_that_another_run_has_done_again_is_not_withdrawn_once_more(run: MakeRun) -> None:
    engine = run()
    stale = engine.execute(numbers(salt=True))
    damaged = stale.files()[4][0]
    other = Run(engine.storage.url, engine.settings, progress=engine.progress)
    other.table("numbers").withdraw(damaged)
    redone = other.execute(numbers(salt=True)).files()
    assert redone[4][0] != damaged
    stale.withdraw(damaged)  # by a run that knows the record of before
    assert stale.files() == redone
    assert engine.storage.list("numbers/withdrawn") == []


@pytest.mark.parametrize("lost", ["nothing", "content", "record"])
def test_leftovers_are_not_collected_before_withdrawn_rows_are_compared(run: MakeRun, lost: str) -> None:
    """A run died after the last record of a table, before it sealed the table. A power cut may have lost the record."""
    engine = run()
    table = engine.execute(numbers(salt=True))
    before, first = table.fingerprint, table.commits()[4]
    record = Path(engine.storage.url, commit_path("numbers", first.shard, table.plan.id))
    if lost == "content":
        record.write_bytes(b"")
    if lost == "record":
        record.unlink()
    table.withdraw(first.files[0][0])
    files = put_rows(table.storage, "numbers", first.shard, pa.table({"id": ["x"] * 10, "value": [1] * 10}))
    publish(table.storage, "numbers", table.plan.id, replace(first, files=files))
    collect_all(engine.storage)  # every `listwise run` begins with this
    redone = Run(engine.storage.url, engine.settings, progress=engine.progress).execute(numbers(salt=True))
    assert redone.fingerprint != before
    collect_all(engine.storage)
    assert sorted(engine.storage.list("numbers/data")) == sorted(file for file, _ in redone.files())


def test_a_table_that_is_not_complete_cannot_be_read(run: MakeRun) -> None:
    table = run().execute(numbers())
    table.withdraw(table.files()[4][0])
    with pytest.raises(RunError, match=r"numbers: 9 of 10 shards are done\. Continue the run"):
        table.read()


def test_of_a_shard_that_was_withdrawn_twice_the_first_rows_are_compared(run: MakeRun) -> None:
    """The shard had rows A, then rows B, which were lost before the table was sealed, then rows B again.

    Tables that were made from rows A must be invalid.
    """
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


def test_a_table_that_no_run_has_sealed_is_sealed_by_the_next_one(run: MakeRun) -> None:
    """A driver died after the last commit record, before the final accounting and the removal of leftover files."""
    engine = run()
    table = engine.execute(numbers())
    table.storage.remove(f"numbers/complete.{table.plan.id}.json")
    table.storage.put("numbers/data/00004.0123456789ab.parquet", b"")
    redone = Run(engine.storage.url, engine.settings, progress=engine.progress).execute(numbers())
    assert redone.sealed()
    assert not engine.storage.exists("numbers/data/00004.0123456789ab.parquet")


@pytest.mark.parametrize("cut", ["commits/00004", "complete"])
def test_a_record_that_a_power_cut_left_empty_counts_as_absent(run: MakeRun, cut: str) -> None:
    engine = run()
    table = engine.execute(numbers())
    if cut != "complete":
        table.storage.remove(f"numbers/complete.{table.plan.id}.json")
    Path(engine.storage.url, "numbers", f"{cut}.{table.plan.id}.json").write_bytes(b"")
    assert values(Run(engine.storage.url, engine.settings, progress=engine.progress).execute(numbers())) == list(
        range(100)
    )


def test_an_overwrite_that_dies_halfway_leaves_nothing_that_looks_done(
    run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after 0, 1, 2, … deletions. Then a table has no plan, or it and all before it are complete."""
    engine = run()
    names = ("queries", "candidates", "scores/x")
    for name in names:
        engine.execute(numbers(path=name))
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
                Run(engine.storage.url, engine.settings, overwrite=frozenset({"queries"}), progress=engine.progress)
                break
            except DiesHereError:
                pass
        planned = [engine.storage.exists(f"{name}/plan.json") for name in names]
        assert planned == sorted(planned, reverse=True)
        for name in [name for name, has_plan in zip(names, planned, strict=True) if has_plan]:
            assert values(engine.table(name)) == list(range(100))
    assert allowed > 3
    assert not any(engine.storage.exists(f"{name}/plan.json") for name in names)


def test_a_shard_that_is_damaged_again_and_again_ends_the_run(run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = run()
    source = engine.execute(numbers())
    path = Path(engine.storage.url, source.files()[4][0])
    path.unlink()
    seal = Table.seal

    def seal_and_lose(table: Table) -> None:
        seal(table)
        path.unlink(missing_ok=True)

    monkeypatch.setattr(Table, "seal", seal_and_lose)
    copy = Stage("copy", NUMBERS, "copy", Count, {}, plan_shards(source, 25), {"s": source.fingerprint}, PoolSettings())
    with pytest.raises(DamagedError, match="the file is missing"):
        engine.execute(copy)


@pytest.mark.parametrize("name", ["rejects", "reject_files", "stats", "units"])
def test_a_record_in_which_the_name_of_a_field_is_damaged_counts_as_absent(run: MakeRun, name: str) -> None:
    """A field with a default would be taken for absent, and a file that it names be collected."""
    engine = run()
    table = engine.execute(numbers())
    table.storage.remove(f"numbers/complete.{table.plan.id}.json")
    record = Path(engine.storage.url, commit_path("numbers", table.plan.shards[4].name, table.plan.id))
    flipped = bytes([name.encode()[0] ^ 1]) + name.encode()[1:]
    assert f'"{name}"'.encode() in record.read_bytes()
    record.write_bytes(record.read_bytes().replace(f'"{name}"'.encode(), b'"' + flipped + b'"'))
    assert table.read_commits([table.plan.shards[4].name]) == []
    again = Run(engine.storage.url, engine.settings, progress=engine.progress).execute(numbers())
    assert values(again) == list(range(100))
