from __future__ import annotations

import gzip
import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import InputError
from distill.evaluation.judged import judged_queries, read
from distill.evaluation.metrics import metrics_per_query
from distill.evaluation.qrels import read_qrels


@pytest.fixture
def folder(hundred: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hundred, tmp_path / "judged"))


def test_a_beir_folder_is_read_whole_and_only_judged_queries_are_kept(folder: Path):
    with (folder / "queries.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "unjudged", "text": ""}) + "\n")
    collection = read(folder)
    assert len(collection.passage_ids) == len(collection.titles) == len(collection.texts) == 100
    assert len(collection.query_ids) == 20
    assert "unjudged" not in collection.query_ids
    assert collection.qrels["q03"] == {"p033": 1}
    assert judged_queries(folder) == dict(zip(collection.query_ids, collection.queries, strict=True))


def test_a_sample_of_queries_is_the_same_every_time_and_keeps_every_passage(folder: Path):
    first, second = read(folder, max_queries=7, seed=3), read(folder, max_queries=7, seed=3)
    assert first.query_ids == second.query_ids
    assert len(first.query_ids) == len(first.queries) == len(first.qrels) == 7
    assert first.query_ids != read(folder, max_queries=7, seed=4).query_ids
    assert len(first.passage_ids) == 100
    assert len(read(folder, max_queries=1000).query_ids) == 20


def test_empty_texts_of_passages_and_unusual_line_separators_are_kept(folder: Path):
    with (folder / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"_id": 7, "title": null, "text": ""}\n\n{"_id": "u", "text": "one\u2028two"}\r\n')
    collection = read(folder)
    assert collection.passage_ids[-2:] == ["7", "u"]
    assert collection.texts[-2:] == ["", "one\u2028two"]
    assert collection.titles[-2:] == ["", ""]


def test_a_judged_passage_that_the_corpus_lacks_counts_as_not_found_as_in_trec_eval(folder: Path):
    import pytrec_eval

    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q03\tp999\t2\nq04\tp998\t1\nq04\tp000\t-1\nq05\tp001\t1.0\n")
    collection = read(folder)
    assert collection.unknown == 2
    assert collection.notes == [
        "judged, test: 2 of 24 judgments name passages that the corpus lacks; they count as not found, as in trec_eval"
    ]
    run = {query: {f"p{row:03}": 1 / (1 + row) for row in range(0, 60)} for query in collection.query_ids}
    ours = metrics_per_query(collection.qrels, run)
    theirs = pytrec_eval.RelevanceEvaluator(read_qrels(folder), {"ndcg_cut_10", "recall_100"}).evaluate(run)
    for query in collection.query_ids:
        assert ours["ndcg@10"][query] == pytest.approx(theirs[query]["ndcg_cut_10"])
        assert ours["recall@100"][query] == pytest.approx(theirs[query]["recall_100"])
    relevant = {passage for passage, grade in collection.qrels["q03"].items() if grade > 0}
    assert ours["recall@100"]["q03"] == pytest.approx(len(relevant & run["q03"].keys()) / len(relevant))
    assert "p999" in relevant


def test_judgments_may_be_written_as_trec_does_and_every_file_compressed(folder: Path):
    expected = read(folder)
    lines = [f"{query} 0 {passage}\t{grade}" for query, of in expected.qrels.items() for passage, grade in of.items()]
    (folder / "qrels" / "test.tsv").unlink()
    (folder / "qrels" / "Test.TSV.gz").write_bytes(gzip.compress("\n".join([*lines, lines[0]]).encode()))
    (folder / "qrels" / "._test.tsv").write_bytes(b"\x00\x05")
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / f"{name}.xz").write_bytes(lzma.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    assert read(folder) == expected
    with pytest.raises(InputError, match=r"train\.tsv.*splits test\."):
        read(folder, "train")


def append(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).open("ab").write(content)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda folder: (folder / "qrels/test.tsv").write_text("q01\tnowhere\t1\nq02\tneither\t0\n"),
            ["2 judged passages", "neither, nowhere", "test.tsv"],
        ),
        (append("qrels/test.tsv", b"q03\tp033\t0\n"), ["test.tsv, line 22", "'q03' and passage 'p033'", "1 in line 5"]),
        (append("qrels/test.tsv", b"q01\tp000\t0.5\n"), ["test.tsv, line 22", "grade is 0.5", "Multiply"]),
        (append("qrels/test.tsv", b"q01\tp000\tnan\n"), ["test.tsv, line 22", "grade is nan"]),
        (append("qrels/test.tsv", b"nobody\tp000\t1\n"), ["1 judged queries", "nobody", "queries.jsonl"]),
        (append("qrels/test.tsv", b"q01 p000 1\n"), ["test.tsv, line 22", "tabs"]),
        (append("qrels/test.tsv", b"q01\tp000\tyes\n"), ["test.tsv, line 22", "whole number"]),
        (
            append("corpus.jsonl", b'{"_id": "p000", "text": "again"}\n'),
            ["corpus.jsonl, line 101", "'p000' occurs twice"],
        ),
        (
            append("queries.jsonl", b'{"_id": "q00", "text": "again"}\n'),
            ["queries.jsonl, line 21", "'q00' occurs twice"],
        ),
        (append("corpus.jsonl", b'{"_id": "x", "text": \n'), ["corpus.jsonl, line 101", "not JSON"]),
        (append("corpus.jsonl", b'{"_id": "x"}\n'), ["corpus.jsonl, line 101", "no field 'text'"]),
        (
            append("corpus.jsonl", b'{"_id": "x", "text": "", "title": 5}\n'),
            ["corpus.jsonl, line 101", "'title'", "int"],
        ),
        (append("corpus.jsonl", b'{"text": "no id"}\n'), ["corpus.jsonl, line 101", "'_id'"]),
        (append("qrels/test.tsv", b"q01\tp\xe9\t1\n"), ["test.tsv, line 22", "not UTF-8"]),
        (lambda folder: (folder / "corpus.jsonl").unlink(), ["corpus.jsonl", "No such file", "Expected a BEIR folder"]),
        (lambda folder: (folder / "queries.jsonl").unlink(), ["queries.jsonl", "No such file"]),
        (lambda folder: (folder / "corpus.jsonl").write_text(""), ["corpus.jsonl", "no passage"]),
        (lambda folder: (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n"), ["no judgment"]),
        (shutil.rmtree, ["Expected a BEIR folder"]),
    ],
)
def test_bad_input_is_refused_with_file_line_and_cause(folder: Path, spoil: Callable[[Path], object], words: list[str]):
    spoil(folder)
    with pytest.raises(InputError) as caught:
        read(folder)
    for word in words:
        assert word in str(caught.value)


def test_an_error_about_a_missing_split_names_the_existing_ones(folder: Path):
    with pytest.raises(InputError, match=r"train\.tsv.*splits test"):
        read(folder, "train")


def test_a_judged_query_without_text_is_refused(folder: Path):
    lines = (folder / "queries.jsonl").read_text().splitlines()
    lines[4] = json.dumps({"_id": "q04", "text": "  "})
    (folder / "queries.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match="1 judged queries have no text: q04"):
        read(folder)
