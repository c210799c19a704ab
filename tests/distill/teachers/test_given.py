"""Scores that were made elsewhere: what a file says reaches the pairs it means, and every mistake is named."""

from __future__ import annotations

import csv
import gzip
import json
import math
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from cluster.errors import InputError
from cluster.tables.table import Table
from distill.retrieval import candidates
from distill.settings.retrieval import RetrievalSettings, RetrieverSettings
from distill.settings.teachers import TeacherSettings
from distill.teachers import scores
from distill.teachers.base import CandidateQuery
from distill.teachers.given import GivenScores, GivenTeacher
from distill.teachers.given_file import CHECKED, check, read
from launcher import input_checks
from launcher.recipe_file import load_recipe
from tests.distill.conftest import POOL, Retrieved
from tests.pipeline import recipe_text

IDS = pa.chunked_array([["p0", "p1"], ["p2", "p3", "p4"]])
NAN = math.nan
BM25 = RetrievalSettings(retrievers={"bm25": RetrieverSettings(kind="bm25")}, depth=12, min_candidates=2)
BM25 = RetrievalSettings(retrievers={"bm25": RetrieverSettings(kind="bm25")}, depth=12, min_candidates=2)


def write(path: Path, records: list[dict]) -> str:
    """The records as JSON lines, CSV, TSV or Parquet, by the ending."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
        return str(path)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as stream:
        if kind == "jsonl":
            stream.writelines(json.dumps(one) + "\n" for one in records)
        else:
            table = csv.DictWriter(stream, list(records[0]), delimiter="," if kind == "csv" else "\t")
            table.writeheader()
            table.writerows(records)
    return str(path)


def flat(*entries: tuple) -> list[dict]:
    """Records of (query_id, query, passage_id, score), without what is None."""
    names = ("query_id", "query", "passage_id", "score")
    return [
        {name: value for name, value in zip(names, one, strict=True) if value is not None or name == "score"}
        for one in entries
    ]


def query(query_id: str, text: str, *rows: int) -> CandidateQuery:
    return CandidateQuery(0, query_id, text, np.array(rows, np.int64))


def ask(path: str, *queries: CandidateQuery, fill: bool = False) -> list[list[float]]:
    found, tokens = GivenTeacher(GivenScores(path, IDS), fill).score(queries)
    assert tokens == 0
    assert all(one.dtype == np.float32 for one in found)
    return [one.tolist() for one in found]


@pytest.mark.parametrize("name", ["s.jsonl", "s.jsonl.gz", "s.csv", "s.csv.gz", "s.tsv", "s.parquet"])
def test_scores_come_back_by_query_and_passage_from_every_kind_of_file(tmp_path, name):
    random = np.random.default_rng(0)
    wanted = {(f"q{number}", f"p{row}"): float(random.normal()) for number in range(40) for row in range(5)}
    entries = [(query_id, f"text, of\n{query_id}", passage, score) for (query_id, passage), score in wanted.items()]
    random.shuffle(entries)
    path = write(tmp_path / name, flat(*[(one[0], one[1], one[2], float(one[3])) for one in entries]))
    check(path)
    queries = [query(f"q{number}", f"Text, of q{number}", *random.permutation(5)[:4]) for number in range(40)]
    for one, found in zip(queries, ask(path, *queries), strict=True):
        np.testing.assert_allclose(found, [wanted[one.query_id, f"p{row}"] for row in one.passage_rows], rtol=1e-6)


@pytest.mark.parametrize("name", ["s.jsonl", "s.parquet"])
def test_a_line_may_hold_all_scores_of_a_query_as_in_files_of_lists(tmp_path, name):
    lists = [
        {"query": "Old  Maps", "passages": [{"docid": "p3", "score": 3.5}, {"docid": "p0", "score": -1.0}]},
        {"query": "silver ore", "passages": [{"docid": "p3", "score": 0.25}]},
    ]
    path = write(tmp_path / name, lists)
    assert ask(path, query("a", "old maps", 0, 3), query("b", "silver ore", 3)) == [[-1.0, 3.5], [0.25]]


def test_queries_are_found_by_id_and_else_by_text_also_in_one_file(tmp_path):
    records = flat(
        ("q1", None, "p0", 1.0),
        (None, "OLD\u00a0 maps", "p1", 2.0),
        ("foreign", "silver ore", "p2", 3.0),
        ("q4", "of another run", "p3", 4.0),
        (7, None, "p4", 5.0),
    )
    path = write(tmp_path / "s.jsonl", records)
    found = ask(
        path,
        query("q1", "old maps", 0, 1),  # one score under its id, the other under its text
        query("q3", "Silver Ore", 2),
        query("q4", "of this run", 3),  # the same id, and another text: not this query
        query("7", "numbers are ids too", 4),
        query("q9", "unheard of", 0),
    )
    assert found[0] == [1.0, 2.0]
    assert found[1] == [3.0]
    assert np.isnan(found[2]).all()
    assert found[3] == [5.0]
    assert np.isnan(found[4]).all()


def test_a_candidate_without_a_score_has_none_or_the_lowest_of_its_query(tmp_path):
    records = flat(
        ("q", None, "p0", 2.0), ("q", None, "p1", -3.0), ("q", None, "elsewhere", -5.0), ("r", None, "p0", -9.0)
    )
    path = write(tmp_path / "s.jsonl", records)
    asked = (query("q", "x", 0, 4, 1, 3), query("none", "y", 0))
    np.testing.assert_array_equal(ask(path, *asked)[0], [2.0, NAN, -3.0, NAN])
    filled = ask(path, *asked, fill=True)
    assert filled[0] == [2.0, -5.0, -3.0, -5.0], "of any passage that the file names, known or not"
    assert np.isnan(filled[1]).all(), "a query without any score stays without"
    teacher = GivenTeacher(GivenScores(path, IDS), True)
    teacher.score(asked)
    assert (teacher.take_filled(), teacher.take_filled()) == (2, 0)


def test_unknown_passages_are_left_out_and_counted_and_a_file_of_nothing_else_is_refused(tmp_path, caplog):
    path = write(tmp_path / "s.jsonl", flat(("q", None, "p0", 2.0), ("q", None, "x", 1.0), ("r", None, "y", 1.0)))
    given = GivenScores(path, IDS)
    assert given.unknown == 2
    assert "2 of 3 scores are of passages that the run lacks" in caplog.text
    path = write(tmp_path / "t.jsonl", flat(("q", None, "x7", 2.0)))
    with pytest.raises(InputError, match=r"none of its 1 scores is of a passage of this run, such as 'x7'.*'p0'"):
        GivenScores(path, IDS)


def test_a_score_that_is_given_twice_is_refused_with_both_lines(tmp_path):
    path = write(
        tmp_path / "s.jsonl", flat(("q", None, "p0", 2.0), ("q", None, "p1", 2.0), (None, "q", "p0", 1.0),
                                   ("q", None, "p0", 2.0)),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"s\.jsonl, line 4: a score of the same query and passage stands in line 1"):
        GivenScores(path, IDS)
    same_text = flat(("a", "Old maps", "p0", 2.0), ("b", "old  maps", "p0", 2.0), ("c", "old maps", "p1", 7.0))
    path = write(tmp_path / "t.jsonl", same_text)
    assert ask(path, query("z", "old maps", 0, 1)) == [[2.0, 7.0]], "equal scores of equal texts agree"
    path = write(tmp_path / "u.jsonl", [*same_text, *flat(("d", "OLD MAPS", "p1", 8.0))])
    with pytest.raises(InputError, match=r"line 4: another score of a query with the same text.*in line 3"):
        GivenScores(path, IDS)
    path = write(tmp_path / "v.jsonl", flat(("a", "old maps", "p0", 2.0), ("a", "new maps", "p1", 2.0)))
    with pytest.raises(InputError, match="line 2: query 'a' had another text in line 1"):
        GivenScores(path, IDS)


MISTAKES = {
    "nan": ('{"query_id": "q", "passage_id": "p0", "score": NaN}', "score of passage 'p0' is nan"),
    "infinite": ('{"query_id": "q", "passage_id": "p0", "score": 1e999}', "score of passage 'p0' is inf"),
    "null": ('{"query_id": "q", "passage_id": "p0", "score": null}', "is None. Expected a finite number"),
    "words": ('{"query_id": "q", "passage_id": "p0", "score": "high"}', "is 'high'"),
    "boolean": ('{"query_id": "q", "passage_id": "p0", "score": true}', "is True"),
    "no score": ('{"query_id": "q", "passage_id": "p0"}', "is None"),
    "no query": ('{"passage_id": "p0", "score": 1}', "neither a query_id nor a query"),
    "no passage": ('{"query_id": "q", "score": 1}', "no field 'passage_id'"),
    "passages": ('{"query": "q", "passages": ["p0"]}', "'passages' is no list of objects"),
    "inner": ('{"query": "q", "passages": [{"docid": "p0", "score": null}]}', "score of passage 'p0'"),
    "text": ('{"query": 7, "passage_id": "p0", "score": 1}', "field 'query' is 7"),
    "no JSON": ("q p0 1.0", "not JSON"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_line_that_is_no_score_is_named(tmp_path, name):
    line, expected = MISTAKES[name]
    path = tmp_path / "s.jsonl"
    path.write_text(f'{{"query_id": "q", "passage_id": "p1", "score": 1}}\n\n{line}\n')
    with pytest.raises(InputError, match=expected) as error:
        check(str(path))
    assert f"{path}, line 3" in str(error.value)


def test_a_folder_of_files_is_read_as_one_and_places_name_the_file(tmp_path):
    (tmp_path / "more").mkdir()
    write(tmp_path / "a.jsonl", flat(("q", None, "p0", 2.0), ("q", None, "p1", 1.0)))
    write(tmp_path / "more" / "b.csv.gz", flat(("q", "", "p2", 3.0)))
    (tmp_path / "c.TSV").write_text("query_id;docid;score\nq;p3;4\n", encoding="utf-16")
    assert ask(str(tmp_path), query("q", "x", 0, 1, 2, 3)) == [[2.0, 1.0, 3.0, 4.0]]
    write(tmp_path / "more" / "d.jsonl", flat(("q", None, "p0", 2.0)))
    with pytest.raises(InputError, match=r"d\.jsonl, line 1: a score .* stands in .*a\.jsonl, line 1 already"):
        ask(str(tmp_path))


def test_files_that_cannot_be_read_are_named(tmp_path):
    made = {
        "none.jsonl": (None, "is not a file"),
        "s.txt": ("x", "expected a name that ends in .jsonl, .csv, .tsv, .parquet"),
        "empty.jsonl": ("\n", "holds no score"),
        "s.parquet": ("no parquet", "cannot be read as Parquet"),
        "s.jsonl.gz": ("no gzip", "cannot be read"),
        "s.csv.gz": ("no gzip", "cannot be read"),
        "short.csv": ("query_id,passage_id,score\nq,p0\n", "line 2: 2 fields where the header has 3"),
        "long.csv": ("query_id,passage_id,score\nq,p0,1,2\n", "line 2: 4 fields where the header has 3"),
        "nan.csv": ("query_id,passage_id,score\nq,p0,1\nq,p1,nan\n", "line 3: the score of passage 'p1' is 'nan'"),
        "header.csv": ("qid,pid,score\nq,p0,1\n", "line 2: there is neither a query_id nor a query"),
        "quote.csv": ('query_id,passage_id,score\n"q"x,p0,1,2\n', "line 2: not CSV"),
    }
    for name, (content, expected) in made.items():
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=expected) as error:
            check(str(tmp_path / name))
        assert name in str(error.value)
    (tmp_path / "latin.csv").write_bytes("query,passage_id,score\nKöln,p0,1\n".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        check(str(tmp_path / "latin.csv"))


def test_a_check_reads_the_first_scores_alone(tmp_path):
    good = '{"query_id": "q", "passage_id": "p", "score": 1}\n'
    (tmp_path / "s.jsonl").write_text(good * CHECKED + "mistake\n")
    check(str(tmp_path / "s.jsonl"))
    with pytest.raises(InputError, match=f"line {CHECKED + 1}"):
        list(read(str(tmp_path / "s.jsonl")))


def test_a_recipe_is_refused_before_anything_starts(tmp_path, tiny_encoder):
    (tmp_path / "s.jsonl").write_text("mistake\n")
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe_text(tmp_path, tiny_encoder, tmp_path / "run"))
    recipe = load_recipe(str(file), [f"teachers={{given: {{kind: given, path: {tmp_path / 's.jsonl'}}}}}"])
    with pytest.raises(InputError, match=r"teachers\.given\.path: .*s\.jsonl, line 1.*not JSON"):
        input_checks.check(recipe)
    with pytest.raises(ValidationError, match="needs `path`"):
        TeacherSettings(kind="given")


@pytest.fixture(scope="module")
def proposed(retrieved: Retrieved) -> Table:
    return candidates.build(retrieved.run, BM25, {}, retrieved.passages, retrieved.queries)


def test_a_stage_takes_given_scores_and_a_changed_file_is_another_teacher(
    retrieved: Retrieved, proposed: Table, tmp_path
):
    rows = proposed.read().to_pylist()
    random = np.random.default_rng(1)
    wanted = {one["query_id"]: {passage: float(random.normal()) for passage in one["passage_ids"]} for one in rows}
    first = rows[0]["query_id"]
    del wanted[first][rows[0]["passage_ids"][3]]
    records = [
        {"query_id": query_id, "passages": [{"docid": passage, "score": score} for passage, score in of.items()]}
        for query_id, of in wanted.items()
    ]
    path = write(tmp_path / "s.jsonl", records)

    def build(name: str, missing: str) -> Table:
        teacher = TeacherSettings(kind="given", path=path, missing=missing, pool=POOL, rows_per_shard=40)
        return scores.build(retrieved.run, name, teacher, retrieved.encoder, proposed, retrieved.passages, BM25, {})

    table = build("reject", "reject")
    assert table.num_rows == len(rows) - 1
    for scored, one in zip(table.read().to_pylist(), rows[1:], strict=True):
        np.testing.assert_allclose(
            scored["scores"], [wanted[one["query_id"]][each] for each in one["passage_ids"]], rtol=1e-6
        )
    filled = build("lowest", "lowest")
    assert filled.num_rows == len(rows)
    assert filled.read().to_pylist()[0]["scores"][3] == pytest.approx(min(wanted[first].values()))
    assert sum(commit.stats.get("lowest_instead_of_missing", 0) for commit in filled.commits()) == 1
    assert filled.plan.fingerprint != table.plan.fingerprint
    write(tmp_path / "s.jsonl", records[::-1])
    retrieved.run.storage.delete("scores/lowest")
    assert build("lowest", "lowest").plan.fingerprint != filled.plan.fingerprint


def test_a_hundred_thousand_scores_are_read_in_seconds(tmp_path):
    count = 2000
    ids = pa.chunked_array([[f"p{number}" for number in range(5000)]])
    random = np.random.default_rng(2)
    with (tmp_path / "s.jsonl").open("w") as stream:
        for number in range(count):
            passages = [{"docid": f"p{row}", "score": row / 7} for row in random.permutation(5000)[:50].tolist()]
            stream.write(json.dumps({"query_id": f"q{number}", "passages": passages}) + "\n")
    begun = time.monotonic()
    given = GivenScores(str(tmp_path / "s.jsonl"), ids)
    assert time.monotonic() - begun < 10
    last = query(f"q{count - 1}", "x", *range(5000))
    found, lowest = given.scores_of(last)
    assert np.isfinite(found).sum() == 50
    assert lowest == np.nanmin(found)
    np.testing.assert_allclose(found[np.isfinite(found)], np.flatnonzero(np.isfinite(found)) / 7)


def test_rows_of_given_ids_are_found_by_a_table_of_the_given_ones():
    import pyarrow as pa

    from distill.teachers.given import _rows_of

    passages = pa.chunked_array([["a", "b"], ["c"], ["d", "e"]])
    given = pa.chunked_array([["e", "x", "b"], ["e", "a"]])
    assert _rows_of(given, passages).tolist() == [4, -1, 1, 4, 0]
    assert _rows_of(pa.chunked_array([[]], pa.string()), passages).tolist() == []
