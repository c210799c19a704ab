"""A file of scored lists: what a line may hold, the tables that are written, and the line that an error names."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import InputError
from cluster.tables import write_table
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from distill.lists.scored_file import read, write_tables
from distill.training.list_arrays import read_lists
from launcher.train import prepare_tables


def passage(docid: object, score: object, **more: str) -> dict:
    return {"docid": docid, "score": score, **more}


GOOD = [
    {
        "query": "stone bridge",
        "passages": [passage("a", -1.5, text="A bridge of stone."), passage(7, 4, title="Mill", text="A mill.")],
    },
    {"query": "paper mill", "query_id": "second", "passages": [passage("7", 9.5), passage("a", 0.5)]},
    {"query": "cotton", "passages": [passage("c", 1.0, text="Cotton.")], "ignored": True},
]


def write_lines(path: Path, *lines: object) -> Path:
    content = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_a_folder_of_compressed_files_is_read_as_one(tmp_path):
    (tmp_path / "in" / "more").mkdir(parents=True)
    write_lines(tmp_path / "in" / "A.JSONL", GOOD[0])
    write_lines(tmp_path / "in" / "more" / "b.jsonl.gz", *GOOD[1:])
    content = read(tmp_path / "in")
    assert [query for query, _ in content.queries] == ["A.JSONL-line-1", "second", "more/b.jsonl.gz-line-2"]
    tables = prepare_tables(str(tmp_path / "in"), tmp_path / "out", 0.0)
    assert Table.open(Storage(tables), "lists").num_rows == 3


@pytest.mark.parametrize("name", ["lists.jsonl", "lists.jsonl.gz"])
def test_lists_of_a_file_become_the_tables_of_a_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr(write_table, "ROWS_PER_FILE", 2)
    file, storage = write_lines(tmp_path / name, *GOOD, ""), Storage(str(tmp_path / "out"))
    write_tables(file, storage, dev_fraction=0.0)
    passages, lists = (Table.open(storage, path) for path in ("passages", "lists"))
    assert passages.complete and lists.complete
    assert passages.read().select(["passage_id", "title", "text"]).to_pylist() == [
        {"passage_id": "a", "title": "", "text": "A bridge of stone."},
        {"passage_id": "7", "title": "Mill", "text": "A mill."},
        {"passage_id": "c", "title": "", "text": "Cotton."},
    ]
    data = read_lists(lists.read(), "train", 2, passages.num_rows)
    assert data.query_ids.to_pylist() == ["line-1", "second", "line-3"]
    assert data.rows.tolist() == [[1, 0], [1, 0], [2, -1]]
    raw = [-1.5, 4, 9.5, 0.5, 1.0]
    low, high = np.percentile(raw, [1, 99])
    descending = np.array([[4, -1.5], [9.5, 0.5], [1.0, low]])
    np.testing.assert_allclose(data.scores, np.clip((descending - low) / (high - low), 0, 1), atol=1e-6)

    fingerprint = lists.fingerprint
    write_tables(file, storage, dev_fraction=0.0)
    assert Table.open(storage, "lists").fingerprint == fingerprint, "the same file again leaves the tables as they are"
    with pytest.raises(InputError, match="made of other lists, or with another split"):
        write_tables(file, storage, dev_fraction=0.5)


def test_a_share_of_the_queries_is_dev_and_queries_of_the_same_words_have_one_split(tmp_path):
    lines = [{"query": f"query {n // 2}", "passages": [passage(n, n % 7, text=f"text {n}")]} for n in range(400)]
    storage = Storage(str(tmp_path / "out"))
    write_tables(write_lines(tmp_path / "lists.jsonl", *lines), storage, dev_fraction=0.2)
    rows = Table.open(storage, "lists").read(["text", "split"]).to_pylist()
    splits = {text: {row["split"] for row in rows if row["text"] == text} for text in {row["text"] for row in rows}}
    assert all(len(of_text) == 1 for of_text in splits.values())
    assert 0.1 < sum(row["split"] == "dev" for row in rows) / 400 < 0.3


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[1, 2]", "line 4: found a list"),
        ({"passages": [{"docid": "a", "score": 1}]}, "line 4: `query`: Field required"),
        ({"query": "x", "query_id": "\ud83d", "passages": [passage("a", 1)]}, "line 4: `query_id`: .*half of"),
        ({"query": "x", "passages": [passage("\ud83d", 1)]}, r"line 4: `passages\.0\.docid`: .*half of a character"),
        ({"query": "x", "passages": []}, "line 4: `passages`: List should have at least 1 item"),
        ({"query": "x", "passages": [{"docid": "a"}]}, r"line 4: `passages\.0\.score`: Field required"),
        ({"query": "x", "passages": [passage("a", "high")]}, r"line 4: `passages\.0\.score`: Input should be"),
        ({"query": "x", "passages": [passage("a", float("nan"))]}, r"line 4: `passages\.0\.score`: Input should be"),
        ({"query": "x", "passages": [passage("new", 1)]}, "line 4: passage 'new' has no text"),
        ({"query": "x", "passages": [passage("a", 1, text="Other.")]}, "line 4: passage 'a' had another"),
        ({"query": "x", "passages": [passage("a", 1), passage("a", 2)]}, "line 4: .* occurs twice"),
        ({"query": "x", "query_id": "second", "passages": [passage("a", 1)]}, "line 4: the query_id 'second'"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_its_line(line, says, tmp_path):
    file = write_lines(tmp_path / "lists.jsonl", *GOOD, line)
    with pytest.raises(InputError, match=f"{file.name}, {says}"):
        read(file)


def test_files_that_are_no_lists_are_refused(tmp_path):
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(gzip.compress(json.dumps(GOOD[0]).encode())[:-9])
    not_utf8 = tmp_path / "latin.jsonl"
    not_utf8.write_bytes('{"query": "café"}'.encode("latin-1"))
    for file, says in (
        (tmp_path / "missing.jsonl", "cannot be read .No such file"), (broken, "cannot be read .Compressed file"),
        (write_lines(tmp_path / "empty.jsonl", ""), "holds no list"), (not_utf8, "line 1, byte 15"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            write_tables(file, Storage(str(tmp_path / "out")), 0.1)


def test_half_of_a_character_is_replaced_in_queries_titles_and_texts(tmp_path):
    halved = {"query": "pier \ud83d", "passages": [passage("a", 1, title="\ud83d", text="ships \ud83d")]}
    lists = read(write_lines(tmp_path / "lists.jsonl", halved))
    assert lists.queries == [("line-1", "pier ?")]
    assert lists.passages == {"a": (0, "?", "ships ?")}


def test_scores_that_are_all_equal_are_refused(tmp_path):
    lines = [{"query": f"q{n}", "passages": [{"docid": "a", "text": "A.", "score": 3}]} for n in range(3)]
    with pytest.raises(InputError, match="the scores do not differ: every passage scores 3"):
        write_tables(write_lines(tmp_path / "lists.jsonl", *lines), Storage(str(tmp_path / "out")), 0.1)
