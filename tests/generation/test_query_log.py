from __future__ import annotations

import json

import pytest

from cluster.errors import InputError
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
    made = run()
    assert query_log.build(made, CorpusSettings(path="unused")) is None
    assert not made.storage.list("query_log")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"_id": "b", "text": ', "no JSON"),
        ("[1]", "found a list"),
        ('{"text": "pier"}', "field _id is missing"),
        ('{"_id": "", "text": "pier"}', "field _id is empty"),
        ('{"_id": true, "text": "pier"}', "field _id is a boolean"),
        ('{"_id": "b"}', "field text is missing"),
        (r'{"_id": "b\ud83d", "text": "pier"}', r"field _id 'b\ud83d' holds half of a surrogate pair"),
        ('{"_id": "b", "text": 3}', "field text is a number"),
        ('{"_id": "a", "text": "pier"}', "_id 'a' stands in line 1 already"),
    ],
)
def test_a_malformed_line_is_named_with_file_and_line(tmp_path, line, found):
    path = write(tmp_path / "log.jsonl", ['{"_id": "a", "text": "pier"}', "", line])
    with pytest.raises(InputError) as error:
        query_log.scan(path, 10)
    assert f"log.jsonl, line 3: {found}" in str(error.value)


def test_half_of_a_surrogate_pair_in_a_text_is_replaced():
    assert query_log.parse(rb'{"_id": "a", "text": "ships \ud83d"}', "log.jsonl", 1) == ("a", "ships ?")


def test_bytes_that_are_no_utf8_are_named(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b'{"_id": "a", "text": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"line 1.*not UTF-8"):
        query_log.scan(str(tmp_path / "log.jsonl"), 10)


@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_a_log_without_queries_says_what_to_do(tmp_path, content):
    path = tmp_path / "log.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match="leave query_log out"):
        query_log.scan(str(path), 10)


def test_byte_order_mark_carriage_returns_and_a_missing_last_newline_are_read(run, tmp_path):
    text = '\ufeff{"_id": "a", "text": "pier"}\r\n{"_id": "b", "text": "harbour\\u2028wall"}'
    (tmp_path / "log.jsonl").write_bytes(text.encode())
    table = query_log.build(run(), CorpusSettings(path="unused", query_log=str(tmp_path / "log.jsonl")))
    assert table.read()["text"].to_pylist() == ["pier", "harbour wall"]
