"""Tables without a cluster: plans, slices, commits, damage."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import DamagedError, InputError
from cluster.schemas import TableSchema
from cluster.tables.commit import Commit, publish, put_rows
from cluster.tables.fingerprint import check_fingerprint
from cluster.tables.gc import collect
from cluster.tables.plan import Plan, Shard
from cluster.tables.plan_shards import plan_shards
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.watch.status import status
from cluster.workers.actor import ShardReader

SCHEMA = TableSchema("t", pa.schema([("n", pa.int64()), ("keep", pa.bool_())]), "tests", "row")


def write(storage: Storage, sizes: list[int], keep: list[bool] | None = None, name: str = "t") -> Table:
    """A committed table of one data file per size, its rows numbered."""
    plan = Plan.new(SCHEMA, [Shard(f"{i:05d}", size) for i, size in enumerate(sizes)], {"sizes": sizes})
    storage.put(f"{name}/plan.json", plan.to_bytes())
    keep = keep or [True] * sum(sizes)
    first = 0
    for shard in plan.shards:
        rows = pa.table(
            {"n": range(first, first + shard.rows), "keep": keep[first : first + shard.rows]}, SCHEMA.schema
        )
        files = put_rows(storage, name, shard.name, rows)
        publish(storage, name, plan.id, commit(shard.name, files, shard.rows))
        first += shard.rows
    return Table.open(storage, name)


def commit(shard: str, files: tuple[tuple[str, int], ...], rows: int) -> Commit:
    return Commit(shard, files, rows, rows, {}, 0, 0, 0.0, "w0", "here")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_shards_cover_every_wanted_row_once_and_in_order(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sizes = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=5))
    keep = data.draw(st.lists(st.booleans(), min_size=sum(sizes), max_size=sum(sizes)))
    rows_per_shard = data.draw(st.integers(1, 12))
    where = data.draw(st.sampled_from([None, "keep"]))
    storage = Storage(str(tmp_path_factory.mktemp("t")))
    table = write(storage, sizes, keep)
    planned = plan_shards(table, rows_per_shard, where=where)
    reader = ShardReader(storage)
    numbers = []
    for shard in planned:
        rows = reader.rows(shard, 0, shard.rows)
        assert rows is not None and rows.num_rows == shard.rows <= rows_per_shard
        middle = shard.rows // 2
        halves = [reader.rows(shard, 0, middle), reader.rows(shard, middle, shard.rows)]
        assert pa.concat_tables(halves).equals(rows)
        numbers += rows["n"].to_pylist()
    assert numbers == [n for n in range(sum(sizes)) if where is None or keep[n]]
    assert all(shard.rows == rows_per_shard for shard in planned[:-1])


def test_a_plan_reads_back_as_it_was_written(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    planned = plan_shards(write(storage, [5, 7]), 4, units_per_row=3)
    plan = Plan.new(SCHEMA, [*planned, Shard("x", 2, params={"bytes": [0, 9]})], {"b": (1, 2)})
    assert Plan.from_bytes(plan.to_bytes()) == plan
    assert plan.units == 12 * 3 + 2


def test_units_of_rows_may_differ_and_are_counted_for_every_part_of_a_shard(tmp_path: Path) -> None:
    storage, units = Storage(str(tmp_path)), [3, 0, 1, 2, 5, 0, 0, 4, 1, 1, 2, 6]
    planned = plan_shards(write(storage, [5, 7]), 4, units_per_row=units)
    plan = Plan.from_bytes(Plan.new(SCHEMA, planned, {}).to_bytes())
    assert list(plan.shards) == planned
    assert [shard.units for shard in planned] == [6, 9, 10]
    assert [planned[1].units_of(row, row + 1) for row in range(4)] == units[4:8]
    assert plan.units == sum(units)
    with pytest.raises(ValueError, match="units of 11 rows were given, and 12 rows are planned"):
        plan_shards(write(storage, [5, 7], name="other"), 4, units_per_row=units[1:])


def test_rows_come_back_in_plan_order_and_an_empty_table_keeps_its_columns(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert write(storage, [3, 0, 4]).read(["n"])["n"].to_pylist() == list(range(7))
    assert write(storage, [0], name="empty").read().schema == SCHEMA.schema


def test_the_second_finisher_takes_over_the_first_record_and_removes_its_own_file(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    table = write(storage, [3])
    first = table.commits()[0]
    rows = pa.table({"n": [7, 8, 9], "keep": [True] * 3}, SCHEMA.schema)
    second = commit("00000", put_rows(storage, "t", "00000", rows), 3)
    assert publish(storage, "t", table.plan.id, second) == first
    assert storage.list("t/data") == [first.files[0][0]]
    # the same rows give the same file, which the loser must not remove
    same = commit("00000", first.files, 3)
    publish(storage, "t", table.plan.id, same)
    assert Table.open(storage, "t").read()["n"].to_pylist() == [0, 1, 2]


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_a_damaged_file_is_found_and_its_shard_counts_as_not_done(tmp_path: Path, harm: str) -> None:
    storage = Storage(str(tmp_path))
    table = write(storage, [3, 4])
    table.seal()
    file = tmp_path / table.files()[1][0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes(data[:-7] if harm == "truncate" else data)
    with pytest.raises(DamagedError, match="00001"):
        Table.open(storage, "t").read()
    again = Table.open(storage, "t")
    assert not again.complete
    assert [c.shard for c in again.commits()] == ["00000"]


def test_only_files_that_no_record_names_are_collected_and_only_from_complete_tables(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    table = write(storage, [3, 4])
    storage.put("t/data/00002.dead0123456789ab.parquet", b"in a table that is not sealed: not removed yet")
    assert collect(table) == 0
    table.seal()
    assert collect(table) == 1
    named = storage.list("t")
    storage.put("t/data/00000.feed0123456789ab.parquet", b"from a worker that died")
    storage.put("t/commits/00000.0ddba110123456789ab.json", b"from a worker of an older plan")
    (tmp_path / "t/data/00001.beef0123456789ab.parquet#1").write_bytes(b"from an unfinished put")
    unfinished = write(storage, [3, 4], name="u")
    unfinished.withdraw(unfinished.files()[0][0])
    before = storage.list("u")
    storage.put("t/data/mine.parquet", b"a file of a person")
    named.append("t/data/mine.parquet")
    assert collect(table) == 3
    assert storage.list("t") == sorted(named)
    assert not list((tmp_path / "t/data").glob("*#*"))
    assert collect(Table.open(storage, "u")) == 0
    assert storage.list("u") == before


def test_a_changed_fingerprint_is_refused_with_both_values() -> None:
    planned = {"model": {"name": "old", "tokens": 5}, "seed": 0, "gone": [1]}
    wanted = {"model": {"name": "new", "tokens": 5}, "seed": 0, "added": 1.5}
    with pytest.raises(InputError) as caught:
        check_fingerprint("scores/x", "scores", planned, wanted)
    text = str(caught.value)
    assert 'model.name: was "old", is "new"' in text
    assert "gone: was [1], is absent" in text
    assert "added: was absent, is 1.5" in text
    assert "--overwrite scores" in text
    assert "seed" not in text and "tokens" not in text
    check_fingerprint("scores/x", "scores", {"a": [1, 2]}, {"a": (1, 2)})


def test_status_is_counted_from_storage_alone(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    table = write(storage, [3, 4], name="scores/x")
    storage.put("training/plan.json", json.dumps({"fingerprint": {}}).encode())
    assert [(r["table"], r["shards_done"], r["rows"]) for r in status(storage)] == [("scores/x", 2, 7)]
    table.withdraw(table.files()[0][0])
    assert [(r["shards_done"], r["shards"], r["units_done"], r["units"]) for r in status(storage)] == [(1, 2, 4, 7)]
