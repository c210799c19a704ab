from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from generation.readers.base import Record
from generation.readers.open_reader import open_reader
from generation.settings import CorpusSettings

ROWS = [
    {"_id": f"p{number}", "title": f"title {number}", "text": f'passage "{number}",\nwith a line break and an é'}
    for number in range(11)
]


def write_jsonl(folder: Path, rows: list[dict]) -> Path:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "docs.jsonl").write_text("\n\n".join(lines), encoding="utf-8")  # blank lines, no newline at the end
    return folder / "docs.jsonl"


def write_jsonl_folder(folder: Path, rows: list[dict]) -> Path:
    for name, part in (("a", rows[:4]), ("b", rows[4:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\r\n" for row in part), encoding="utf-8")
    return folder


def write_beir(folder: Path, rows: list[dict]) -> Path:
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8-sig")
    (folder / "queries.jsonl").write_text("this is not read")
    return folder


def write_csv(folder: Path, rows: list[dict], delimiter: str = ",", suffix: str = ".csv") -> Path:
    with (folder / f"docs{suffix}").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return folder / f"docs{suffix}"


def write_tsv(folder: Path, rows: list[dict]) -> Path:
    return write_csv(folder, rows, "\t", ".tsv")


def write_parquet(folder: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "docs.parquet", row_group_size=3)
    return folder / "docs.parquet"


def write_saved(folder: Path, rows: list[dict]) -> str:
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(str(folder / "saved"))
    return f"hf://{folder / 'saved'}"


def write_gzipped(folder: Path, rows: list[dict], write: Callable[[Path, list[dict]], Path]) -> Path:
    path = write(folder, rows)
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()
    return packed


def write_jsonl_gz(folder: Path, rows: list[dict]) -> Path:
    return write_gzipped(folder, rows, write_jsonl)


def write_tsv_gz(folder: Path, rows: list[dict]) -> Path:
    return write_gzipped(folder, rows, write_tsv)


def write_nested(folder: Path, rows: list[dict]) -> Path:
    write_jsonl_gz(folder, rows[:2]).rename(folder / "A.JSONL.GZ")
    for number, part in enumerate((rows[2:7], rows[7:])):
        (folder / f"more{number}").mkdir()
        write_jsonl(folder / f"more{number}", part)
    (folder / "._A.jsonl").write_bytes(b"\x00\x05\x16\x07")
    return folder


def write_partitioned(folder: Path, rows: list[dict]) -> Path:
    for number, part in enumerate((rows[:5], rows[5:])):
        (folder / f"part={number}").mkdir()
        write_parquet(folder / f"part={number}", part)
    (folder / "_SUCCESS").write_bytes(b"")
    return folder


def write_utf16(folder: Path, rows: list[dict]) -> Path:
    path = write_csv(folder, rows, ";")
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-16", newline="")
    return path


WRITERS = [
    write_jsonl_gz,
    write_tsv_gz,
    write_jsonl,
    write_jsonl_folder,
    write_beir,
    write_csv,
    write_tsv,
    write_parquet,
    write_saved,
    write_nested,
    write_partitioned,
    write_utf16,
]


def read_all(path: object, rows_per_shard: int = 100, max_rows: int | None = None, **settings) -> list[Record]:
    reader = open_reader(CorpusSettings(path=str(path), **settings))
    shards = reader.plan(rows_per_shard, max_rows)
    records = [list(reader.read(shard, 0, shard.rows)) for shard in shards]
    assert [len(of_shard) for of_shard in records] == [shard.rows for shard in shards]
    return [record for of_shard in records for record in of_shard]


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_records(write, tmp_path: Path) -> None:
    records = read_all(write(tmp_path, ROWS))
    assert [(record.passage_id, record.title, record.text) for record in records] == [
        tuple(row.values()) for row in ROWS
    ]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("rows_per_shard", [1, 2, 3, 4])
def test_shards_of_any_size_hold_the_same_records(write, rows_per_shard: int, tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    assert read_all(path, rows_per_shard) == read_all(path)


@pytest.mark.parametrize("write", WRITERS)
def test_a_shard_sees_the_records_beside_it_but_never_into_another_file(write, tmp_path: Path) -> None:
    reader = open_reader(CorpusSettings(path=str(write(tmp_path, ROWS))))
    everything = read_all(reader_path(reader))
    seen = 0
    for shard in reader.plan(3, None):
        before, after = shard.params["before"], shard.params["after"]
        expected = everything[seen - before : seen + shard.rows + after]
        assert list(reader.read(shard, -before, shard.rows + after)) == expected
        assert len({record.file for record in expected}) == 1
        inner = everything[seen : seen + shard.rows]
        if not before and seen:
            assert everything[seen - 1].file != inner[0].file
        if not after and seen + shard.rows < len(everything):
            assert everything[seen + shard.rows].file != inner[-1].file
        seen += shard.rows
    assert seen == len(everything)


def reader_path(reader) -> str:
    return str(reader.path) if hasattr(reader, "path") else f"hf://{reader.name}"


@pytest.mark.parametrize("write", WRITERS)
def test_max_passages_ends_the_corpus_there(write, tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    reader = open_reader(CorpusSettings(path=str(path)))
    shards = reader.plan(3, 5)
    assert sum(shard.rows for shard in shards) == 5
    assert shards[-1].params["after"] == 0
    assert read_all(path, 3, 5) == read_all(path)[:5]


@pytest.mark.parametrize("write", WRITERS)
def test_a_changed_text_changes_the_fingerprint(write, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "three").mkdir()
    changed = [*ROWS[:-1], {**ROWS[-1], "text": ROWS[-1]["text"].replace("line", "lime")}]
    first, same, other = (
        open_reader(CorpusSettings(path=str(write(tmp_path / name, rows)))).fingerprint()
        for name, rows in (("one", ROWS), ("two", ROWS), ("three", changed))
    )
    assert first == same
    assert first != other


def test_fields_are_found_by_their_usual_names_or_as_the_recipe_says(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text('{"docid": 7, "contents": "a", "name": "b", "body": "c"}\n')
    assert [(r.passage_id, r.title, r.text) for r in read_all(path)] == [("7", "", "a")]
    named = read_all(path, id_field="name", title_field="contents", text_field="body")
    assert [(r.passage_id, r.title, r.text) for r in named] == [("b", "a", "c")]


def test_empty_and_null_texts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text('{"_id": "a", "text": ""}\n{"_id": "b", "text": null, "title": null}\n')
    assert [(r.passage_id, r.title, r.text) for r in read_all(path)] == [("a", "", ""), ("b", "", "")]


def test_csv_fields_may_be_a_million_characters_long(tmp_path: Path) -> None:
    path = write_csv(tmp_path, [{"_id": "a", "title": "", "text": "x" * 1_000_000}])
    assert len(read_all(path)[0].text) == 1_000_000


@pytest.mark.parametrize("name", ["passages.tsv", "passages.jsonl.gz", "passages.csv"])
def test_a_link_is_read_by_its_own_name_and_not_by_that_of_its_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    writer = {"tsv": write_tsv, "gz": write_jsonl_gz, "csv": write_csv}[name.rpartition(".")[2]]
    writer(tmp_path / "blobs", ROWS).rename(tmp_path / "blobs" / "3f2a91")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / name).symlink_to("../blobs/3f2a91")
    for path in (tmp_path / "cache" / name, tmp_path / "cache"):
        assert [(r.passage_id, r.text) for r in read_all(path, 3)] == [(row["_id"], row["text"]) for row in ROWS]


def test_a_column_may_be_in_the_names_of_folders(tmp_path: Path) -> None:
    for value in ("trees%20and%20more", "__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / f"section={value}").mkdir()
        table = pa.table({"id": [value], "text": ["x"]})
        pq.write_table(table, tmp_path / f"section={value}" / "0.parquet")
    assert [record.title for record in read_all(tmp_path, title_field="section")] == ["", "trees and more"]


def test_a_tsv_without_a_header_is_read_with_the_names_that_the_recipe_gives(tmp_path: Path) -> None:
    path = tmp_path / "collection.tsv"
    path.write_text('0\tone\n1\t"two" of\n2\tthree\n')
    records = read_all(path, 2, columns=["id", "text"])
    assert [(r.passage_id, r.text, r.position) for r in records] == [
        ("0", "one", "line 1"), ("1", '"two" of', "line 2"), ("2", "three", "line 3"),
    ]  # fmt: skip


def test_a_beir_corpus_may_be_compressed_and_other_passages_beside_it_are_told(tmp_path: Path) -> None:
    path = write_beir(tmp_path, ROWS) / "corpus.jsonl"
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert len(read_all(tmp_path, 4)) == len(ROWS)
    assert open_reader(CorpusSettings(path=str(tmp_path))).notes() == []
    write_jsonl(tmp_path, ROWS)
    (note,) = open_reader(CorpusSettings(path=str(tmp_path))).notes()
    assert note == f"{tmp_path}/corpus.jsonl.gz is read, as of a BEIR folder; left out: docs.jsonl"


def test_what_a_folder_holds_besides_the_corpus_is_told(tmp_path: Path) -> None:
    write_jsonl(tmp_path, ROWS)
    (tmp_path / "README.md").write_text("passages")
    (note,) = open_reader(CorpusSettings(path=str(tmp_path))).notes()
    assert "left out: 1 of another kind (README.md)" in note
