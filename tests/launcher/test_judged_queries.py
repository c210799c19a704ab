"""Judged queries that teach: what becomes of each of them, and what a run's lists make of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from cluster.errors import InputError
from cluster.run import Run
from cluster.schemas import PASSAGES
from cluster.tables.dropped import read_dropped
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.watch.progress import Progress
from generation.settings import CorpusSettings, JudgedQuerySettings
from launcher import judged_queries
from launcher.pipeline import execute
from launcher.recipe_file import load_recipe
from tests.corpus import ASPECTS, PLACES
from tests.corpus import QUERIES as TEMPLATES
from tests.distill.conftest import open_run
from tests.distill.run_tables import write_passages, write_table
from tests.pipeline import recipe_text

Grades = Mapping[str, Mapping[str, int]]


def write_folder(folder: Path, queries: Mapping[str, str], qrels: Grades, split: str = "train") -> Path:
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": key, "text": text}) for key, text in queries.items()]
    (folder / "queries.jsonl").write_text("".join(f"{line}\n" for line in lines))
    rows = [f"{query}\t{passage}\t{grade}" for query, grades in qrels.items() for passage, grade in grades.items()]
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return folder


def corpus_of(folder: Path, **changes: object) -> CorpusSettings:
    settings = JudgedQuerySettings(dataset=str(folder), split="train")
    return CorpusSettings(path="unused", judged_queries=settings, **changes)


@pytest.fixture
def run(tmp_path: Path, local_ray: None) -> Iterator[Run]:
    with open_run(tmp_path / "run") as opened:
        write_passages(opened)
        yield opened


def build(run: Run, corpus: CorpusSettings, evaluated: Mapping[str, str], passages: frozenset[str]) -> Table:
    table = judged_queries.build(run, corpus, run.table("passages"), evaluated, passages)
    assert table is not None
    return table


def test_every_judged_query_teaches_or_is_dropped_with_a_reason(run: Run, tmp_path: Path):
    queries = {
        "graded": "who trades  salted herring",
        "same": "Who maintains the lighthouse?",
        "both": "another text of an evaluated id",
        "taken": "what the evaluation judges",
        "poor": "nothing is relevant to this",
        "strange": "its passage is of another corpus",
        "person": "someone@example.org",
        "mixed": "mail someone@example.org about herring",
    }
    qrels = {
        "graded": {"p001": 1, "p000": 3, "p999": 3, "p002": 0},
        "same": {"p000": 1},
        "both": {"p000": 1},
        "taken": {"p010": 1},
        "poor": {"p000": 0, "p001": 0},
        "strange": {"x1": 2},
        "person": {"p003": 1},
        "mixed": {"p010": 1, "p011": 1},
    }
    folder = write_folder(tmp_path / "judged", queries, qrels)
    evaluated = {"t1": " who maintains the LIGHTHOUSE", "both": "something else"}

    table = build(run, corpus_of(folder, rows_per_shard=3), evaluated, frozenset({"p010"}))

    rows = {row["query_id"]: row for row in table.read().to_pylist()}
    assert set(rows) == {"judged:graded", "judged:mixed"}
    assert rows["judged:graded"] == {
        "query_id": "judged:graded", "source_id": "p000", "query_type": "judged", "text": "who trades salted herring",
        "sample": 0, "second_source_id": None, "relevant_ids": ["p000", "p001"],
    }  # fmt: skip
    assert rows["judged:mixed"]["text"] == "mail <email> about herring"
    assert rows["judged:mixed"]["relevant_ids"] == ["p011"]
    drops: Counter[str] = sum((Counter(commit.drops) for commit in table.commits()), Counter())
    assert drops == {
        "evaluated": 2, "evaluated_passage": 1, "not_relevant": 1, "unknown_passage": 1, "only_personal": 1,
    }  # fmt: skip
    shown = [dropped for commit in table.commits() for dropped in read_dropped(run.storage, commit)]
    assert ("judged:person", "<email>") in [(dropped.unit, dropped.text) for dropped in shown]


def test_least_grade_and_passages_of_the_evaluation_are_as_the_recipe_says(run: Run, tmp_path: Path):
    folder = write_folder(tmp_path / "judged", {"a": "one", "b": "two"}, {"a": {"p000": 1}, "b": {"p001": 2}})
    corpus = corpus_of(folder, exclude_judged_sources=False)
    assert corpus.judged_queries
    strict = corpus.judged_queries.model_copy(update={"least_grade": 2})
    corpus = corpus.model_copy(update={"judged_queries": strict})
    table = build(run, corpus, {}, frozenset({"p001"}))
    assert table.read(["query_id"]).column(0).to_pylist() == ["judged:b"]


def test_of_a_document_that_was_cut_nobody_knows_which_piece_answers(tmp_path: Path, local_ray: None):
    ids = [("d1#1", "d1"), ("d1#2", "d1"), ("d2#1", "d2")]
    rows = [
        {"passage_id": key, "title": "", "text": f"text {key}", "is_source": True, "parent_id": parent}
        for key, parent in ids
    ]
    folder = write_folder(tmp_path / "judged", {"a": "one", "b": "two"}, {"a": {"d1": 1}, "b": {"d2": 1}})
    with open_run(tmp_path / "run") as run:
        write_table(run, PASSAGES, rows, files=1)
        table = build(run, corpus_of(folder), {}, frozenset())
        assert [(row["query_id"], row["relevant_ids"]) for row in table.read().to_pylist()] == [("judged:b", ["d2#1"])]
        assert table.commits()[0].drops == {"whole_document": 1}


def test_a_folder_of_another_corpus_is_refused_with_its_reasons(run: Run, tmp_path: Path):
    folder = write_folder(tmp_path / "judged", {"a": "one", "b": "two"}, {"a": {"x1": 1}, "b": {"x2": 1}})
    with pytest.raises(InputError, match=r"no query of .*judged, train, can be used: 2 are left out, since the corpus"):
        build(run, corpus_of(folder), {}, frozenset())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "dev"}, r"qrels/dev.tsv: there is no such file. There are the splits train"),
        ({"least_grade": 3}, r"no grade of .*judged, train, is 3 or more; the best is 2. Lower least_grade"),
        ({"dataset": "nowhere"}, r"nowhere/qrels/train.tsv: there is no such file"),
    ],
)
def test_mistakes_are_found_before_anything_starts(tmp_path: Path, change: dict[str, object], message: str):
    folder = write_folder(tmp_path / "judged", {"a": "one"}, {"a": {"p000": 2}})
    settings = JudgedQuerySettings(dataset=str(folder)).model_copy(update=change)
    with pytest.raises(InputError, match=message):
        judged_queries.check(settings)


def test_judged_queries_become_lists_with_what_is_relevant_first(
    tmp_path: Path, hundred: Path, tiny_encoder: str, local_ray: None
):
    """Teachers of this run rank at random, and a source need not be near the top: people's word counts all the same."""
    queries, qrels = {}, {}
    for number, place in enumerate(PLACES):
        aspect = (number + 1) % len(ASPECTS)  # the evaluation judges another passage of the place
        queries[f"j{number}"] = TEMPLATES[aspect].format(*place)
        qrels[f"j{number}"] = {f"p{number:02d}{aspect}": 2, f"p{number:02d}{(number + 2) % len(ASPECTS)}": 1}
    folder = write_folder(tmp_path / "judged", queries, qrels)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text(hundred, tiny_encoder, tmp_path / "run"))
    changes = [f"corpus.judged_queries.dataset={folder}", "lists.require_source_first=true", "lists.dev_fraction=0.3",
               "lists.best_percentile=90", "lists.choice=spread", "retrieval.round_trip_rank=1"]  # fmt: skip
    execute(load_recipe(str(path), changes), last="lists", progress=Progress(quiet=True))

    storage = Storage(str(tmp_path / "run"))
    ids = Table.open(storage, "passages").read(["passage_id"]).column(0).to_pylist()
    proposed = Table.open(storage, "candidates")
    lists = [row for row in Table.open(storage, "lists").read().to_pylist() if row["query_type"] == "judged"]
    candidates = {row["query_id"]: row for row in proposed.read().to_pylist()}
    not_found = sum(commit.drops.get("judged_not_found", 0) for commit in proposed.commits())
    assert len(lists) + not_found == 20
    assert len(lists) > 12
    deep = 0
    for row in lists:
        relevant = qrels[row["query_id"].removeprefix("judged:")]
        found = candidates[row["query_id"]]
        best = [one for one in sorted(relevant, key=lambda one: -relevant[one]) if one in found["passage_ids"]]
        assert found["source_id"] == best[0]
        deep += found["passage_ids"].index(best[0]) > 0
        listed = dict(zip([ids[place] for place in row["passage_rows"]], row["scores"], strict=True))
        assert listed[best[0]] == max(listed.values()), "the source is in its list, with the best score"
        assert all(listed[one] == max(listed.values()) for one in best if one in listed)
        if row["split"] == "dev":
            truth = dict(zip([ids[place] for place in row["dev_rows"]], row["dev_scores"], strict=True))
            assert truth == {one: float(one in best) for one in truth}
            assert set(best) <= set(truth)
    assert {row["split"] for row in lists} == {"train", "dev"}
    assert deep, "some are not the first that retrieval finds"
