"""Chunks follow the student: its length, its tokenizer, its prompt; a judged collection is cut in the same way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.errors import InputError
from cluster.tables.storage import Storage
from distill.evaluation import judged
from distill.evaluation.metrics import own_passages
from launcher import evaluation_set
from launcher.chunking import chunking_of
from launcher.plan.corpus import sample_corpus
from launcher.recipe_file import load_recipe
from tests.generation.documents.files import prose

RECIPE = """\
name: small
workdir: run
corpus: {path: "%s"}
teachers: {bm25: {kind: bm25}}
student: {model: all-MiniLM-L6-v2, max_passage_tokens: 64}
"""


def recipe_of(folder: Path, path: Path, *changes: str):
    (folder / "recipe.yaml").write_text(RECIPE % path)
    return load_recipe(str(folder / "recipe.yaml"), changes)


def test_documents_are_cut_to_the_student_and_records_only_if_asked(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("A text.")
    chunking = chunking_of(recipe_of(tmp_path, tmp_path / "docs"))
    assert chunking is not None
    assert (chunking.tokens, chunking.overlap, chunking.prefix) == (64, 8, "")
    (tmp_path / "a.jsonl").write_text('{"_id": "1", "text": "A text."}\n')
    assert chunking_of(recipe_of(tmp_path, tmp_path / "a.jsonl")) is None
    prompted = recipe_of(tmp_path, tmp_path / "a.jsonl", "corpus.chunk_tokens=32", "student.passage_prompt='doc:'")
    assert chunking_of(prompted).prefix == "doc:"


def test_a_student_in_a_relative_folder_is_the_same_on_every_worker(tmp_path, monkeypatch, tiny_encoder):
    monkeypatch.chdir(Path(tiny_encoder).parent)
    relative = f"student.model=./{Path(tiny_encoder).name}"
    chunking = chunking_of(recipe_of(tmp_path, tmp_path, "corpus.chunk_tokens=32", relative))
    assert chunking is not None and chunking.model == str(Path(tiny_encoder).resolve())


def test_chunks_that_the_student_would_not_read_to_their_end_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"corpus\.chunk_tokens is 65, but the student reads only .* = 64"):
        recipe_of(tmp_path, tmp_path, "corpus.chunk_tokens=65")
    with pytest.raises(
        InputError, match=r"evaluation\.cut cuts judged passages to corpus\.chunk_tokens, which is empty"
    ):
        recipe_of(tmp_path, tmp_path, "evaluation.cut=true")
    with pytest.raises(InputError, match=r"corpus\.chunk_overlap is 40, more than half"):
        chunking_of(recipe_of(tmp_path, tmp_path, "corpus.chunk_tokens=64", "corpus.chunk_overlap=40"))


def test_a_plan_counts_chunks_and_says_what_stays_unread(tmp_path):
    rows = [{"_id": f"{n}", "text": prose("pump", 12 if n % 2 else 1)} for n in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = sample_corpus(recipe_of(tmp_path, tmp_path / "a.jsonl"))
    assert (whole.records, whole.documents, whole.unread) == (40, None, 0.5)
    cut = sample_corpus(recipe_of(tmp_path, tmp_path / "a.jsonl", "corpus.chunk_tokens=64"))
    assert (cut.documents, cut.unread) == (40, 0)
    assert 80 < cut.records < 120


def test_a_judged_collection_is_cut_and_its_passages_are_judged_by_their_chunks(tmp_path):
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": "long", "title": "Pumps", "text": prose("pump", 12)}, {"_id": "empty", "title": "", "text": ""}]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "a pump"}\n')
    (folder / "qrels" / "test.tsv").write_text("q\tlong\t1\n")
    recipe = recipe_of(
        tmp_path, folder, "corpus.chunk_tokens=64", "evaluation.cut=true", f"evaluation.dataset={folder}"
    )
    storage = Storage(str(tmp_path / "run"))
    prepared = [evaluation_set.prepare(storage, recipe.evaluation, chunking_of(recipe)) for _ in range(2)]
    assert prepared[0] == prepared[1]
    assert prepared[0].passage_ids == {"long"}
    collection = judged.read(prepared[0].folder)
    assert len(collection.passage_ids) > 4
    assert set(collection.judged_ids) == {"long", "empty"}
    assert set(collection.titles) == {"Pumps", ""}


def test_a_passage_that_is_the_query_itself_stays_whole_and_is_left_out_of_its_run(tmp_path):
    """As in ArguAna: the query's own text is a passage, under the query's id, and never its answer."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    argument, answer = prose("pump", 12), prose("valve", 12)
    rows = [{"_id": "one", "title": "", "text": argument}, {"_id": "two", "title": "", "text": answer}]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "one", "text": f" {argument.upper()}"}) + "\n")
    (folder / "qrels" / "test.tsv").write_text("one\ttwo\t1\n")
    recipe = recipe_of(
        tmp_path, folder, "corpus.chunk_tokens=64", "evaluation.cut=true", f"evaluation.dataset={folder}"
    )
    prepared = evaluation_set.prepare(Storage(str(tmp_path / "run")), recipe.evaluation, chunking_of(recipe))
    collection = judged.read(prepared.folder)
    (row,) = own_passages(collection).values()
    assert collection.passage_ids[row] == collection.judged_ids[row] == "one"
    assert collection.texts[row] == argument
    assert len(collection.passage_ids) > 4, "the other passage is cut"
