"""A column that the processes of a machine share: its values, and that it takes no memory of a process."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from cluster.errors import DamagedError
from cluster.schemas import QUERY_LOG
from cluster.tables.mapped_column import mapped_column
from tests.distill.run_tables import write_passages, write_table


def test_the_column_is_that_of_the_table_and_takes_no_memory(run: Callable, monkeypatch: pytest.MonkeyPatch):
    passages = write_passages(run())
    expected = passages.read(["passage_id"]).column(0)
    del expected
    expected = [row["passage_id"] for row in passages.read(["passage_id"]).to_pylist()]
    before = pa.total_allocated_bytes()
    column = mapped_column(passages, "passage_id")
    assert pa.total_allocated_bytes() <= before, "it lies in a mapped file"
    assert column.to_pylist() == expected
    monkeypatch.setattr(passages, "read_file", lambda *_: pytest.fail("the files are read once a machine"))
    assert mapped_column(passages, "passage_id").equals(column)


def test_each_column_and_each_table_has_its_own_and_nulls_stay(run: Callable):
    opened = run()
    rows = [
        {"query_id": "log:1", "source_id": None, "text": "one"},
        {"query_id": "log:2", "source_id": "p", "text": "two"},
    ]
    log = write_table(opened, QUERY_LOG, rows, path="query_log")
    assert mapped_column(log, "source_id").to_pylist() == [None, "p"]
    assert mapped_column(log, "text").to_pylist() == ["one", "two"]
    again = write_table(opened, QUERY_LOG, rows[:1], path="query_log")
    assert mapped_column(again, "text").to_pylist() == ["one"]


def test_a_damaged_file_is_noticed(run: Callable):
    opened = run()
    passages = write_passages(opened)
    opened.storage.put(passages.files()[1][0], b"something else")
    with pytest.raises(DamagedError):
        mapped_column(passages, "title")
