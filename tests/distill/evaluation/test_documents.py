"""Judged documents: a document stands where its best chunk stands, and the run is as long as that of whole passages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import InputError
from distill.evaluation import judged
from distill.evaluation.metrics import evaluate_hits
from distill.retrieval.search import Hits

CHUNKS = [("a#1", "a"), ("a#2", "a"), ("b#1", "b"), ("c", None), ("b#2", "b")]


def write(folder: Path, judgements: dict[str, int], parents: bool = True) -> Path:
    (folder / "qrels").mkdir(parents=True)
    rows = [
        {"_id": name, "title": "", "text": f"text of {name}", **({"parent_id": parent} if parents and parent else {})}
        for name, parent in CHUNKS
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "what is it"}\n')
    (folder / "qrels" / "test.tsv").write_text("".join(f"q\t{name}\t{grade}\n" for name, grade in judgements.items()))
    return folder


def hits(rows: list[int]) -> Hits:
    found = Hits.empty(1, len(rows))
    found.rows[0], found.scores[0] = rows, np.linspace(1, 0.5, len(rows))
    return found


def test_the_best_chunk_of_a_document_counts(tmp_path):
    collection = judged.read(write(tmp_path / "beir", {"b": 1}))
    result = evaluate_hits(collection, hits([1, 0, 4, 2, 3]), 100)
    assert result.run["q"] == {"a": 1.0, "b": 0.75, "c": 0.5}
    assert result.metrics["mrr@10"] == 1 / 2  # behind both chunks of one document


def test_chunks_are_judged_where_judgements_name_chunks(tmp_path):
    collection = judged.read(write(tmp_path / "beir", {"b#2": 1}))
    assert evaluate_hits(collection, hits([1, 0, 4, 2, 3]), 100).metrics["mrr@10"] == pytest.approx(1 / 3)
    assert collection.hits_needed(7) == 7


def test_a_search_is_deep_enough_for_so_many_documents(tmp_path):
    collection = judged.read(write(tmp_path / "beir", {"b": 1}))
    assert collection.hits_needed(1) == 3
    assert collection.hits_needed(2) == 5
    assert collection.hits_needed(50) == 5
    shallow = evaluate_hits(collection, hits([0, 1, 2, 4, 3]), 2)
    assert list(shallow.run["q"]) == ["a", "b"]


def test_without_parents_a_document_is_unknown(tmp_path):
    with pytest.raises(InputError, match=r"not in corpus\.jsonl: b"):
        judged.read(write(tmp_path / "beir", {"b": 1}, parents=False))
