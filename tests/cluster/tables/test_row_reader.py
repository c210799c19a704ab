"""Reading and planning rows of committed tables: row reader, lineage, shards of several tables, vector columns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import DamagedError
from cluster.schemas import PASSAGE_VECTORS, PASSAGES
from cluster.tables.columns import list_column
from cluster.tables.commit import Commit, publish, put_rows
from cluster.tables.lineage import Lineage
from cluster.tables.plan import Plan, Shard
from cluster.tables.plan_shards import plan_over_tables, plan_shards
from cluster.tables.row_reader import RowReader
from cluster.tables.vectors import rows_of_vectors, vectors_of
from tests.distill.run_tables import write_passages, write_queries, write_table


def test_rows_come_back_in_the_order_asked_with_any_memory_budget(run: Callable):
    passages = write_passages(run())
    everything = passages.read(["passage_id", "text"])
    for budget in (0, 1 << 30):
        reader = RowReader(passages, ["passage_id", "text"], budget_bytes=budget)
        assert len(reader) == 100
        rows = np.array([99, 0, 34, 33, 34, 67, 66])
        for _ in range(2):
            assert reader.take(rows).to_pylist() == everything.take(pa.array(rows)).to_pylist()
        assert reader.range(30, 70).to_pylist() == everything.slice(30, 40).to_pylist()
        assert reader.range(5, 5).num_rows == 0
    with pytest.raises(IndexError, match="100"):
        reader.take(np.array([100]))


def test_a_table_larger_than_the_budget_that_is_read_again_and_again_keeps_its_first_files_cached(
    run: Callable, monkeypatch: pytest.MonkeyPatch
):
    passages = write_passages(run())
    reader = RowReader(passages, ["text"])
    sizes = [reader.file(number).nbytes for number in range(3)]
    reader, read = RowReader(passages, ["text"], budget_bytes=sum(sizes[:2])), []
    read_file = passages.read_file
    monkeypatch.setattr(passages, "read_file", lambda path, columns: read.append(path) or read_file(path, columns))
    paths = [path for path, _ in reader.files]
    for _ in range(3):
        reader.range(0, 100)
        reader.range(99, 100)
    assert read == paths, "two files fit into the budget, and the last one stays until another is read"
    reader = RowReader(passages, ["text"], budget_bytes=0)
    read.clear()
    for row in (0, 1, 2, 50, 51, 0):
        reader.take(np.array([row]))
    assert read == [paths[0], paths[1], paths[0]]


def test_rows_of_vectors_are_those_of_their_passages(run: Callable):
    opened = run()
    passages = write_passages(opened)
    ids = passages.read(["passage_id"]).column(0)

    def vectors(numbers: list[int], name: str) -> np.ndarray | None:
        """Of a table of four shards of 25 passages each, of which only some have a vector."""
        plan = Plan.new(PASSAGE_VECTORS, [Shard(f"{number:05d}", 25) for number in range(4)], {})
        opened.storage.put(f"{name}/plan.json", plan.to_bytes())
        for number, shard in enumerate(plan.shards):
            rows = [{"id": ids[row].as_py(), "vector": [1.0]} for row in numbers if row // 25 == number]
            files = put_rows(opened.storage, name, shard.name, pa.Table.from_pylist(rows, PASSAGE_VECTORS.schema))
            commit = Commit(shard.name, files if rows else (), len(rows), 25, {}, 0, 0, 0.0, "driver", "driver")
            publish(opened.storage, name, plan.id, commit)
        return rows_of_vectors(opened.table(name), ids)

    assert vectors(list(range(100)), "embeddings/all/passages") is None
    some = [row for row in range(75) if row not in (0, 41)]
    assert vectors(some, "embeddings/some/passages").tolist() == some


def test_a_damaged_file_is_noticed_and_its_shard_will_be_done_again(run: Callable):
    opened = run()
    passages = write_passages(opened)
    path = passages.files()[1][0]
    opened.storage.put(path, b"something else")
    with pytest.raises(DamagedError):
        RowReader(passages, ["passage_id"]).take(np.array([50]))
    assert len(opened.table("passages").commits()) == 2


class Committed:
    """A table as lineage sees it: the rows and units of each shard."""

    def __init__(self, counts: list[tuple[int, int]]) -> None:
        self.counts = counts

    def all_commits(self) -> list[Commit]:
        return [Commit(str(n), (), rows, units, {}, 0, 0, 0.0, "", "") for n, (units, rows) in enumerate(self.counts)]


shards = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)).map(lambda c: (c[0], min(c))), min_size=1, max_size=8)


@given(shards, st.data())
def test_lineage_covers_every_row_made_of_the_range_asked_for(counts: list[tuple[int, int]], data: st.DataObject):
    lineage = Lineage(Committed(counts))  # type: ignore[arg-type]
    origins = [first for first, (units, rows) in enumerate(counts) for _ in range(rows)]  # output row → shard
    owners = [shard for shard, (units, _) in enumerate(counts) for _ in range(units)]  # input row → shard
    start = data.draw(st.integers(0, len(owners)))
    stop = data.draw(st.integers(start, len(owners)))
    first, last = lineage.outputs(start, stop)
    asked = set(owners[start:stop])
    assert {row for row, shard in enumerate(origins) if shard in asked} <= set(range(first, last))
    assert set(origins[first:last]) <= asked
    if origins:
        begin = data.draw(st.integers(0, len(origins)))
        end = data.draw(st.integers(begin, len(origins)))
        first, last = lineage.inputs(begin, end)
        shards_asked = set(origins[begin:end])
        assert {row for row, shard in enumerate(owners) if shard in shards_asked} <= set(range(first, last))


def test_several_tables_are_planned_one_after_the_other(run: Callable):
    opened = run()
    passages = write_passages(opened)
    other = write_table(opened, PASSAGES, passages.read().to_pylist()[:10], path="other")
    shards = plan_over_tables([passages, other], 40)
    assert [shard.name for shard in shards] == ["00000", "00001", "00002", "00003"]
    assert [(shard.params["first"], shard.rows) for shard in shards] == [(0, 40), (40, 40), (80, 20), (100, 10)]
    assert [shard.slices for shard in shards[:3]] == [shard.slices for shard in plan_shards(passages, 40)]
    assert write_queries(opened).num_rows == 100


def test_vectors_read_back_from_a_list_column_as_they_were_written():
    vectors = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    column = list_column(vectors.reshape(-1), np.full(7, 3), pa.float32())
    np.testing.assert_array_equal(vectors_of(column), vectors)
    np.testing.assert_array_equal(
        vectors_of(pa.chunked_array([column.slice(2, 3), column.slice(6)])), vectors[[2, 3, 4, 6]]
    )
    assert vectors_of(pa.chunked_array([], type=column.type)).size == 0
