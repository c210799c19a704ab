"""Exported lists: read back they are the lists of the run, and no file is replaced."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from cluster.errors import InputError
from cluster.schemas import LISTS, PASSAGES
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from distill.lists import export as exporting
from distill.lists.export import export
from distill.lists.scored_file import read
from tests.distill.list_tables import write_run
from tests.tables import write_table


@pytest.fixture
def tables(tmp_path) -> tuple[Table, Table]:
    write_run(tmp_path / "run")
    storage = Storage(str(tmp_path / "run"))
    return Table.open(storage, "lists"), Table.open(storage, "passages")


@pytest.mark.parametrize("name", ["lists.jsonl", "lists.jsonl.gz"])
def test_an_exported_file_reads_back_as_the_same_lists(name, tables, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "LISTS_AT_ONCE", 7)
    lists, passages = tables
    file = tmp_path / name
    assert export(lists, passages, file) == lists.num_rows
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [name]
    content = read(file)
    rows, corpus = lists.read().to_pylist(), passages.read().to_pylist()
    assert content.queries == [(row["query_id"], row["text"]) for row in rows]
    known = {number: (docid, title, text) for docid, (number, title, text) in content.passages.items()}
    for row, numbers, scores in zip(rows, content.rows, content.scores, strict=True):
        expected = [tuple(corpus[one][key] for key in ("passage_id", "title", "text")) for one in row["passage_rows"]]
        assert [known[number] for number in numbers.tolist()] == expected
        np.testing.assert_array_equal(scores.astype(np.float32), np.array(row["scores"], dtype=np.float32))


def test_a_line_has_the_layout_of_the_papers(tmp_path):
    passages = [
        {"passage_id": "é1", "title": "", "text": "Brücke", "is_source": True},
        {"passage_id": "2", "title": "Mill", "text": "A mill.", "is_source": True},
    ]
    one = {"query_id": "q", "query_type": "search", "text": "pont", "passage_rows": [1, 0],
           "scores": [np.float32(0.93), 0.1], "split": "dev", "dev_rows": [], "dev_scores": []}  # fmt: skip
    lists = write_table(str(tmp_path), LISTS, "lists", [one])
    export(lists, write_table(str(tmp_path), PASSAGES, "passages", passages), tmp_path / "out.jsonl.gz")
    assert json.loads(gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes())) == {
        "query_id": "q",
        "query": "pont",
        "passages": [
            {"docid": "2", "title": "Mill", "text": "A mill.", "score": 0.93},
            {"docid": "é1", "text": "Brücke", "score": 0.1},
        ],
    }


def test_a_file_that_exists_stays_and_a_folder_that_does_not_is_named(tables, tmp_path):
    kept = tmp_path / "kept.jsonl"
    kept.write_text("mine")
    with pytest.raises(InputError, match=r"kept\.jsonl: the file exists already and is not replaced"):
        export(*tables, kept)
    assert kept.read_text() == "mine"
    with pytest.raises(InputError, match=r"nowhere/x\.jsonl: cannot be written \(No such file"):
        export(*tables, tmp_path / "nowhere" / "x.jsonl")


def test_an_export_that_ends_early_leaves_no_file(tables, tmp_path, monkeypatch):
    def half(*_):
        yield {"query": "one"}
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "_lines", half)
    with pytest.raises(KeyboardInterrupt):
        export(*tables, tmp_path / "x.jsonl")
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []
