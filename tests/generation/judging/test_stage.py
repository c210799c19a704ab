"""The judge as stages of a run: transformers in the pool, grades once, and thresholds as often as somebody likes."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.errors import InputError
from cluster.run import Run
from cluster.schemas import GRADES, QUERIES
from generation.judging import stage, verdict
from generation.judging.settings import JudgeSettings
from tests.generation.openai_server import sources
from tests.tables import write_table


def query(source: str, number: int, ending: str = "") -> dict:
    return {
        "query_id": f"{source}:claim:{number}{ending}", "source_id": source, "query_type": "claim",
        "text": f"where is {source}, said for the {number}th time", "sample": number,
    }  # fmt: skip


@pytest.mark.cluster
def test_grades_are_made_once_and_a_threshold_may_be_changed_alone(run, tiny_llama):
    made = run()
    passages = sources(made, 12)
    ids = passages.read(["passage_id"])["passage_id"].to_pylist()
    first = write_table(made.storage.url, QUERIES, "queries", [query(p, n) for p in ids for n in range(3)])
    second = write_table(made.storage.url, QUERIES, "more_queries/1", [query(p, 0, "@1") for p in ids])
    judge = JudgeSettings(model=tiny_llama, engine="transformers", rows_per_shard=20)

    grades = stage.build(made, judge, passages, [first, second], frozenset({0}))
    rows = grades.read().to_pylist()
    assert grades.complete
    assert [row["query_id"] for row in rows] == [
        *first.read(["query_id"])["query_id"].to_pylist(), *second.read(["query_id"])["query_id"].to_pylist(),
    ]  # fmt: skip
    assert all((row["grades"] is None) == row["query_id"].endswith("@1") for row in rows)
    means = [np.mean([grade for _, grade in row["grades"]]) for row in rows if row["grades"]]
    assert len(means) == 36
    assert 0 < min(means) < max(means) < 1

    kept = verdict.build(made, judge, grades)
    assert kept.num_rows == 36 - 3 + 12, "of 36 judged ones three are below the tenth"
    assert sum(sum(commit.drops.values()) for commit in kept.commits()) == 3
    changed = judge.model_copy(update={"threshold": float(np.median(means)), "concurrency": 3})
    assert stage.build(made, changed, passages, [first, second], frozenset({0})).fingerprint == grades.fingerprint
    with pytest.raises(InputError, match=r"(?s)judge\.threshold: was .auto.*--overwrite approved") as caught:
        verdict.build(made, changed, grades)
    assert "queries" not in str(caught.value).partition("--overwrite")[2]

    with Run(made.storage.url, made.settings, overwrite=frozenset({"approved"})) as again:
        grades_again = stage.build(again, changed, passages, [first, second], frozenset({0}))
        assert grades_again.fingerprint == grades.fingerprint, "they are not computed again"
        assert verdict.build(again, changed, grades_again).num_rows == 18 + 12
    with Run(made.storage.url, made.settings, overwrite=frozenset({"approved"})) as again:
        strict = judge.model_copy(update={"threshold": 1.0})
        left = verdict.build(again, strict, grades_again)
        assert left.num_rows == 12, "those without grades"


@pytest.mark.cluster
def test_a_threshold_that_leaves_nothing_is_an_error_with_the_best_grade(run):
    made = run()
    rows = [
        query("p", n) | {"grades": [("answerable", 0.4), ("understandable", 0.2), ("natural", 0.3)]} for n in range(4)
    ]
    grades = write_table(made.storage.url, GRADES, "grades", rows)
    with pytest.raises(InputError, match=r"threshold is 0\.7, and the best mean grade of 4 queries is 0\.300"):
        verdict.build(made, JudgeSettings(model="m", threshold=0.7), grades)
