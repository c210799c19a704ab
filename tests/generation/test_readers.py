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
