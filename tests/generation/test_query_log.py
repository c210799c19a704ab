from __future__ import annotations

import gzip
import json

import pytest

from cluster.errors import InputError
from cluster.tables.dropped import read_dropped
from generation import query_log
from generation.settings import CorpusSettings


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def test_every_line_becomes_a_query_without_source_or_a_counted_drop(run, tmp_path):
    lines = [json.dumps({"_id": number, "text": f"where is  pier\u2003{number}"}) for number in range(7)]
    lines[2] = json.dumps({"_id": "blank", "text": "  "})
    lines[4] = ""
    path = write(tmp_path / "log.jsonl", lines)
    corpus = CorpusSettings(path="unused", query_log=path, rows_per_shard=3)

    table = query_log.build(run(), corpus)

    rows = table.read().to_pylist()
    assert [row["query_id"] for row in rows] == ["log:0", "log:1", "log:3", "log:5", "log:6"]
    assert rows[0] == {
        "query_id": "log:0", "source_id": None, "query_type": "log", "text": "where is pier 0", "sample": 0,
        "second_source_id": None,
    }  # fmt: skip
    assert [(commit.rows, commit.drops) for commit in table.commits()] == [
        (2, {"empty": 1}),
        (2, {"empty": 1}),
        (1, {}),
    ]


def test_a_changed_log_is_refused(run, tmp_path):
    path = write(tmp_path / "log.jsonl", ['{"_id": "a", "text": "salted herring"}'])
    corpus = CorpusSettings(path="unused", query_log=path)
    first = query_log.build(run(), corpus)
    assert query_log.build(run(), corpus).fingerprint == first.fingerprint

    write(tmp_path / "log.jsonl", ['{"_id": "a", "text": "salted cod"}'])
    with pytest.raises(InputError, match="--overwrite queries"):
        query_log.build(run(), corpus)


def test_no_query_log_makes_no_table(run):
    opened = run()
    assert query_log.build(opened, CorpusSettings(path="unused")) is None
    assert not opened.storage.list("query_log")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[1]", "found a list"),
        ('{"text": "pier"}', "there is no field '_id'"),
        ('{"_id": "b"}', "there is no field 'text'"),
        ('{"_id": "a", "text": "pier"}', "the _id 'a' is in line 1 already"),
    ],
)
def test_a_malformed_line_is_named_with_file_and_line(tmp_path, line, problem):
    path = write(tmp_path / "log.jsonl", ['{"_id": "a", "text": "pier"}', "", line])
    with pytest.raises(InputError) as error:
        query_log.scan(path, 10)
    assert f"log.jsonl, line 3: {problem}" in str(error.value)


def test_queries_that_the_evaluation_judges_are_left_out_by_text_and_by_id_and_counted(run, tmp_path):
    lines = [
        {"_id": "log-1", "text": "How to store  PEARS?"},
        {"_id": "q2", "text": "where is pier 4, call bob@example.org"},
        {"_id": "log-3", "text": "how to store apples"},
        {"_id": "q4", "text": " "},
    ]
    path = write(tmp_path / "log.jsonl", map(json.dumps, lines))
    corpus = CorpusSettings(path="unused", query_log=path)
    judged = {"q1": "how to store pears", "q2": "where is the pier", "q4": "unrelated"}
    opened = run()
    said: list[str] = []
    opened.progress.say = said.append

    table = query_log.build(opened, corpus, judged)

    assert table.read()["query_id"].to_pylist() == ["log:log-3"]
    (commit,) = table.commits()
    assert commit.drops == {"judged": 1, "judged_id": 1, "empty": 1}
    shown = {one.unit: (one.reason, one.text) for one in read_dropped(opened.storage, commit)}
    assert shown == {
        "log:log-1": ("judged", "How to store PEARS?"),
        "log:q2": ("judged_id", "where is pier 4, call <email>"),
    }
    (sentence,) = said[1:]
    assert sentence.startswith("query log: 2 queries are left out of training, since the evaluation judges them")
    assert sentence.endswith("1 by text, 1 by id alone. 1 are left")
    assert query_log.build(run(), corpus, judged).fingerprint == table.fingerprint
    with pytest.raises(InputError, match="--overwrite queries"):
        query_log.build(run(), corpus)


def test_a_log_may_be_a_folder_whose_files_are_compressed(run, tmp_path):
    folder = tmp_path / "logs"
    (folder / "2026").mkdir(parents=True)
    write(folder / "A.JSONL", ['{"_id": "a", "text": "pier"}', '{"_id": "b", "text": "quay"}'])
    (folder / "2026" / "b.jsonl.gz").write_bytes(gzip.compress(b'{"_id": "c", "text": "wall"}\n'))
    corpus = CorpusSettings(path="unused", query_log=str(folder), rows_per_shard=1)
    assert sorted(query_log.build(run(), corpus).read()["text"].to_pylist()) == ["pier", "quay", "wall"]
    write(folder / "c.jsonl", ['{"_id": "a", "text": "again"}'])
    with pytest.raises(InputError, match=r"c\.jsonl, line 1: the _id 'a' is in line 1 of A\.JSONL already"):
        query_log.scan(str(folder), 10)


@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_a_log_without_queries_says_what_to_do(tmp_path, content):
    path = tmp_path / "log.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match="leave query_log out"):
        query_log.scan(str(path), 10)


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz"])
def test_workers_read_the_lines_that_the_driver_planned_whatever_the_file_holds(run, tmp_path, name):
    lines = [
        '\ufeff{"_id": "a", "text": "pier"}\r',
        "",
        '{"_id": "b", "text": "harbour\u2028wall"}',
        '{"_id": "c", "text": "x"}',
    ]
    content = "\n".join(lines).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    table = query_log.build(run(), CorpusSettings(path="unused", query_log=str(tmp_path / name), rows_per_shard=2))
    assert table.read()["text"].to_pylist() == ["pier", "harbour wall", "x"]
    assert [commit.drops for commit in table.commits()] == [{"empty": 1}, {}]
