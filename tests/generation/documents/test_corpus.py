"""From a folder to passages: every document is chunks or a counted drop, and copies of a page's frame go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cluster.errors import InputError
from cluster.schemas import DOCUMENTS, PASSAGES, RECORDS
from cluster.tables.plan import Plan
from distill.encoders.loading import resolve_model
from generation import passages, records
from generation.documents.chunker import Chunking
from generation.documents.document import Document, Unreadable
from generation.documents.reader import FILES_PER_SHARD, DocumentReader
from generation.readers.open_reader import find_format, holds_documents
from generation.settings import CorpusSettings
from tests.generation.documents.files import MARKDOWN, pdf_file, prose, word_file

CHUNKING = Chunking(resolve_model("all-MiniLM-L6-v2"), 96, 12)
NOTICE = (
    "This page is published under the terms of the builders' licence, which lets everybody copy it for any purpose as "
    "long as the name of the builders stays on every copy of it"
)

SEASONS = ["spring", "summer", "autumn"]


def write_folder(root: Path) -> CorpusSettings:
    (root / "guide" / ".git").mkdir(parents=True)
    (root / "guide" / "install.md").write_text(MARKDOWN)
    (root / "guide" / ".git" / "hidden.md").write_text("Hidden text of a tool, which nobody wants to find.")
    (root / "handbook.docx").write_bytes(word_file())
    (root / "repairs.PDF").write_bytes(pdf_file([[prose("brake", 12)], [prose("axle", 3)]]))
    (root / "secret.pdf").write_bytes(pdf_file([["x"]], password="x"))
    (root / "broken.docx").write_bytes(b"PK\x03\x04 cut off")
    (root / "._notes.txt").write_bytes(b"\0\5\x16\7")
    (root / "notes.txt").write_bytes(prose("hammer", 12).encode("utf-16"))
    for number, topic in enumerate(["bolt", "screw driver", "anvil"]):
        page = f"<p>{NOTICE}, as of {SEASONS[number]}.</p><h1>{topic}</h1><p>{prose(topic, 3)}</p>"
        (root / f"page{number}.html").write_text(page)
    return CorpusSettings(path=str(root), rows_per_shard=8)


def test_a_folder_of_documents_becomes_passages(run, tmp_path):
    corpus = write_folder(tmp_path / "docs")
    made = run()
    table = records.build(made, corpus, CHUNKING)
    documents = made.table(DOCUMENTS.path)
    assert documents.num_rows == 7
    assert {name: count for commit in documents.commits() for name, count in commit.drops.items()} == {
        "broken": 1, "encrypted": 1,
    }  # fmt: skip
    kept = passages.build(made, corpus, table, frozenset({"notes.txt", "handbook.docx#1"}), 100, alike=0.9)
    rows = {row["passage_id"]: row for row in kept.read().to_pylist()}
    assert rows["guide/install.md#2"]["title"] == "Guide > Install > Linux"
    assert rows["guide/install.md#2"]["parent_id"] == "guide/install.md"
    assert {name for name, row in rows.items() if row["parent_id"] == "handbook.docx"} == {
        "handbook.docx#1", "handbook.docx#2", "handbook.docx#3",
    }  # fmt: skip
    assert len({row["parent_id"] for row in rows.values()}) == 7
    # of the notice that stands on every page the first stays
    assert [name for name, row in rows.items() if NOTICE in row["text"]] == ["page0.html#1"]
    assert sum(commit.drops.get("near_duplicate", 0) for commit in kept.commits()) == 2
    # neither a judged chunk nor the chunks of a judged document are sources
    assert {row["parent_id"] for row in rows.values() if not row["is_source"]} == {"notes.txt", "handbook.docx"}
    assert not rows["handbook.docx#1"]["is_source"] and rows["handbook.docx#2"]["is_source"]


def test_a_run_goes_on_where_it_stopped_and_other_chunks_are_another_table(run, tmp_path):
    corpus = write_folder(tmp_path / "docs")
    made = run()
    before = records.build(made, corpus, CHUNKING).fingerprint
    assert records.build(made, corpus, CHUNKING).fingerprint == before
    assert made.table(DOCUMENTS.path).plan.fingerprint["chunking"].keys() == {
        "tokens", "overlap", "prefix", "language", "characters", "tokenizer",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"chunking\.tokens: was 96, is 64"):
        records.build(made, corpus, Chunking(CHUNKING.model, 64, 12))
    (tmp_path / "docs" / "notes.txt").write_text("Another text, as long as nobody knows.")
    with pytest.raises(InputError, match=r"source\.checksum: was"):
        records.build(made, corpus, CHUNKING)


def test_long_records_are_cut_and_short_ones_keep_their_ids(run, tmp_path):
    rows = [
        {"_id": "long", "title": "Pumps", "text": prose("pump", 12)},
        {"_id": "short", "title": "", "text": "A short text about a belt that broke."},
    ]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = records.build(run(), CorpusSettings(path=str(tmp_path / "docs.jsonl")), CHUNKING).read()
    ids = table["passage_id"].to_pylist()
    assert ids[-1] == "short" and ids[:2] == ["long#1", "long#2"] and len(ids) > 3
    assert set(table["title"].to_pylist()) == {"Pumps", ""}
    assert table["parent_id"].to_pylist() == ["long"] * (len(ids) - 1) + ["short"]
    assert table["place"].to_pylist()[0] == f"{tmp_path / 'docs.jsonl'}, line 1, chunk 1"


def test_a_folder_in_which_nothing_can_be_read_says_what_is_wrong_with_each(run, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.pdf").write_bytes(pdf_file([["x"]], password="x"))
    (tmp_path / "docs" / "b.txt").write_text("  ")
    with pytest.raises(InputError, match=r"no document could be read: .*encrypted 1 \(a\.pdf: .*no_text 1 \(b\.txt: "):
        records.build(run(), CorpusSettings(path=str(tmp_path / "docs")), CHUNKING)


def test_a_hundred_thousand_documents_are_planned_without_opening_one(tmp_path, monkeypatch):
    names = [f"f{number // 1000}/{number:06}.txt" for number in range(100_000)]
    (tmp_path / "a.txt").write_text("x")
    monkeypatch.setattr("generation.documents.reader.find_documents", lambda path: iter(names))
    shards = DocumentReader(tmp_path).plan(20_000, None)
    assert sum(shard.rows for shard in shards) == 100_000
    assert max(shard.rows for shard in shards) == FILES_PER_SHARD
    assert len(Plan.new(DOCUMENTS, shards, {}).to_bytes()) < 3_000_000
    assert sum(shard.rows for shard in DocumentReader(tmp_path).plan(20_000, 300)) == 300


def test_a_file_that_vanishes_is_a_counted_drop_and_a_name_that_leads_out_is_refused(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"The text of {name}.")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "plan.PNG").write_bytes(b"x")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    reader = DocumentReader(tmp_path)
    assert reader.notes() == [f"{tmp_path}: 1 files that are no documents are left out: .png 1"]
    [shard] = reader.plan(100, None)
    assert shard.params == {"files": ["a.txt", "b.txt"]}
    (tmp_path / "b.txt").unlink()
    first, second = reader.read(shard, 0, 2)
    assert isinstance(first, Document) and first.place == str(tmp_path / "a.txt")
    assert second == Unreadable("b.txt", "unreadable", "No such file or directory")
    for name in ("../a.txt", "/etc/hosts.txt"):
        shard.params["files"][0] = name
        with pytest.raises(InputError, match="is not in"):
            list(reader.read(shard, 0, 1))


def test_a_name_that_is_no_utf_8_is_read(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xf6\xdfe.txt")).write_text("A text with a name of old.")
    reader = DocumentReader(tmp_path)
    shards = Plan.from_bytes(Plan.new(DOCUMENTS, reader.plan(10, None), {}).to_bytes()).shards
    [document] = reader.read(shards[0], 0, 1)
    assert isinstance(document, Document) and document.document_id.encode() == b"gr??e.txt"


def test_one_document_is_a_corpus_too(tmp_path):
    (tmp_path / "manual.docx").write_bytes(word_file())
    corpus = CorpusSettings(path=str(tmp_path / "manual.docx"))
    assert holds_documents(corpus)
    reader = records.open_corpus(corpus)
    [document] = reader.read(reader.plan(10, None)[0], 0, 1)
    assert document.document_id == "manual.docx"


def test_tables_beside_documents_stay_the_corpus_and_the_recipe_may_say_otherwise(tmp_path):
    (tmp_path / "README.md").write_text("About these files.")
    folder = CorpusSettings(path=str(tmp_path))
    assert holds_documents(folder)
    (tmp_path / "docs.jsonl").write_text('{"_id": "1", "text": "A text."}\n')
    assert not holds_documents(folder)
    assert find_format(str(tmp_path)) == "jsonl"
    assert holds_documents(folder.model_copy(update={"format": "documents"}))
    assert not holds_documents(CorpusSettings(path="hf://some/set"))


def test_a_folder_without_documents_names_what_is_read(tmp_path):
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(InputError, match=r"no document\. Expected files that end in \.txt, .*\.docx"):
        DocumentReader(tmp_path).plan(10, None)


def test_records_of_a_run_from_before_there_were_documents_still_become_passages(tmp_path):
    from dataclasses import replace

    from cluster.tables.plan_shards import plan_shards
    from cluster.tables.storage import Storage
    from cluster.workers.worker import Task
    from tests.tables import write_table

    old = replace(RECORDS, schema=RECORDS.schema.remove(RECORDS.schema.get_field_index("parent_id")))
    row = {"passage_id": "1", "title": "", "text": "A text.", "digest": 1, "place": "x", "too_short": False,
           "contained": False}  # fmt: skip
    table = write_table(str(tmp_path), old, RECORDS.path, [row])
    worker = passages.PassageWorker(Storage(str(tmp_path)), RECORDS.path, ["2"], 10, 0)
    [shard] = plan_shards(table, 10)
    rows = worker.process(Task(shard, 0, 1, table.read())).rows
    assert rows.select(PASSAGES.schema.names).to_pylist() == [
        {"passage_id": "1", "title": "", "text": "A text.", "is_source": True, "parent_id": None}
    ]
