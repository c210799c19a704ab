"""Mistakes in a corpus, and what the message for each must name."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cluster.errors import InputError
from generation.readers.open_reader import open_reader
from generation.settings import CorpusSettings

GOOD = b'{"_id": "a", "text": "a good passage"}\n'


def message(path: object, **settings) -> str:
    with pytest.raises(InputError) as caught:
        reader = open_reader(CorpusSettings(path=str(path), **settings))
        for shard in reader.plan(2, None):
            list(reader.read(shard, 0, shard.rows))
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"_id": "b", "text": "cut off\n', ["line 3", "not JSON", '{"_id": "7", "title": "", "text": "…"}']),
        (b'{"text": "no id"}\n', ["line 3", "no id field", "'_id'", "corpus.id_field"]),
        (b'{"_id": "b", "body": "x"}\n', ["line 3", "no text field", "body", "corpus.text_field"]),
        (b'{"_id": "", "text": "x"}\n', ["line 3", "'_id'", "non-empty", "corpus.id_field"]),
        (b'{"_id": "b", "text": ["x"]}\n', ["line 3", "'text'", "list", "Expected a string"]),
        (b'{"_id": "b", "text": "x", "text": "y"}\n', ["line 3", "field 'text' occurs twice"]),
        (b'{"_id": "b", "text": "x", "title": 3}\n', ["line 3", "'title'", "3 (int)"]),
    ],
)
def test_a_bad_jsonl_line_is_named(line: bytes, expected: list[str], tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_bytes(GOOD + b"\n" + line + GOOD)
    text = message(path)
    for part in [str(path), *expected]:
        assert part in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ["empty", "header"]),
        (b"_id,body\na,x\n", ["line 1", "no text field", "_id, body"]),
        (b"_id,text\na,x\nb,y,z\n", ["line 3", "3 fields where the header has 2"]),
        (b'_id,text\na,"two\nlines"\nb,"never closed\n', ["line 4", "not CSV"]),
        (b"_id,text\na,x\nb,caf\xe9\n", ["line 3", "byte 6", "0xe9"]),
        (b"_id,text\n", ["empty"]),
        (b'_id,text\n"",x\n', ["line 2", "non-empty"]),
        (b"0,a passage\n1,another\n", ["line 1", "no id field", "no header line", "corpus.columns=[id, text]"]),
        (b"_id,text,text\na,x,y\n", ["line 1", "columns 2 and 3 are both called 'text'"]),
    ],
)
def test_a_bad_csv_record_is_named(content: bytes, expected: list[str], tmp_path: Path) -> None:
    path = tmp_path / "docs.csv"
    path.write_bytes(content)
    text = message(path)
    for part in [str(path), *expected]:
        assert part in text


def test_a_parquet_file_without_the_fields_or_of_another_format_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"_id": ["a"], "body": ["x"]}), tmp_path / "columns.parquet")
    assert "columns.parquet: there is no text field" in message(tmp_path / "columns.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing of the kind")
    assert "broken.parquet: cannot be read as Parquet" in message(tmp_path / "broken.parquet")
    pq.write_table(pa.table({"_id": ["a", None], "text": ["x", "y"]}), tmp_path / "ids.parquet")
    assert "ids.parquet, row 2: field '_id'" in message(tmp_path / "ids.parquet")


def test_a_parquet_file_of_two_columns_of_one_name_or_in_another_compression_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table([["a"], ["x"], ["y"]], names=["_id", "text", "text"])
    pq.write_table(table, tmp_path / "docs.parquet")
    assert "columns 2 and 3 are both called 'text'" in message(tmp_path / "docs.parquet")
    (tmp_path / "docs.parquet.gz").write_bytes(gzip.compress((tmp_path / "docs.parquet").read_bytes()))
    assert "compressed inside" in message(tmp_path / "docs.parquet.gz")


def test_a_list_of_objects_in_json_is_refused_with_the_command_that_makes_lines_of_it(tmp_path: Path) -> None:
    (tmp_path / "docs.json").write_bytes(b"[]")
    assert f"jq -c '.[]' {tmp_path}/docs.json > {tmp_path}/docs.jsonl" in message(tmp_path / "docs.json")


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert f"no file or folder {tmp_path / 'absent'}" in message(tmp_path / "absent")
    assert f"no file or folder {tmp_path / 'absent'}" in message(tmp_path / "absent", format="jsonl")
    (tmp_path / "folder").mkdir()
    assert "no file of a known format" in message(tmp_path / "folder")
    assert ".jsonl" in message(tmp_path / "folder", format="jsonl")
    assert "corpus.jsonl" in message(tmp_path / "folder", format="beir")


def test_an_unknown_format_names_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "docs.docx").write_bytes(b"")
    text = message(tmp_path / "docs.docx")
    for part in ("docs.docx", ".jsonl", ".parquet", "corpus.format"):
        assert part in text
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "a.csv").write_bytes(b"_id,text\na,x\n")
    assert "several formats (jsonl, csv)" in message(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n \n\n", b"\xef\xbb\xbf\n"])
def test_an_empty_corpus_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_bytes(content)
    assert "the corpus is empty" in message(tmp_path / "docs.jsonl")


def test_a_mistyped_title_field_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_bytes(GOOD)
    assert "no title field. Expected 'titel'" in message(tmp_path / "docs.jsonl", title_field="titel")


def test_a_saved_data_set_without_the_split_names_those_it_has(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_dict({"_id": ["a"], "text": ["x"]})}).save_to_disk(str(tmp_path / "saved"))
    text = message(f"hf://{tmp_path / 'saved'}", hf_split="test")
    assert "no split 'test'" in text
    assert "train" in text
    assert "cannot be loaded" in message(f"hf://{tmp_path / 'nothing'}")


@pytest.mark.parametrize("path", ["pydocs://no_such_package_here", "pydocs://stdlib,,numpy", "pydocs://numpy,numpy"])
def test_a_bad_list_of_packages_is_named(path: str) -> None:
    text = message(path)
    assert path in text
    assert "pydocs://stdlib,numpy" in text
