"""Which queries stay: thresholds against numpy, reasons, and what goes through without grades."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cluster.schemas import APPROVED, GRADES
from cluster.tables.plan import Shard
from cluster.workers.worker import Task
from generation.judging.judged import Judged
from generation.judging.rubric import Rubric
from generation.judging.settings import JudgeSettings
from generation.judging.stage import graded, identity, one_judge
from generation.judging.verdict import VerdictWorker, mean_grade, reason_of, threshold_of
from generation.mixture import sections_of
from generation.queries import identity as identity_of_queries
from generation.query_types import load_types
from generation.settings import GenerationSettings
from tests.tables import write_table

RUBRIC = Rubric("", ("1", "2", "3"), {"a": "?", "b": "?"}, {"a": 1.0, "b": 1.0})
WEIGHTS = {"a": 3.0, "b": 1.0}


def rows(count: int = 200) -> list[dict]:
    dice = np.random.default_rng(1)
    return [
        {
            "query_id": f"p{n}:{'claim' if n % 3 else 'title'}:0" + ("@1" if n % 2 else ""), "source_id": f"p{n}",
            "query_type": "claim" if n % 3 else "title", "text": f"query {n}", "sample": 0,
            "grades": None if n % 5 == 0 else [(name, float(np.float32(dice.random()))) for name in "ab"],
        }
        for n in range(count)
    ]  # fmt: skip


def verdict(table, threshold: float):
    return VerdictWorker(WEIGHTS, threshold).process(
        Task(Shard("00000", table.num_rows), 0, table.num_rows, table.read())
    )


def test_auto_drops_the_lowest_tenth_of_those_that_were_judged(tmp_path):
    written = rows()
    table = write_table(str(tmp_path), GRADES, GRADES.path, written)
    means = {
        row["query_id"]: np.average([grade for _, grade in row["grades"]], weights=[3, 1])
        for row in written if row["grades"]
    }  # fmt: skip
    output = verdict(table, threshold_of(JudgeSettings(model="m"), WEIGHTS, table))
    dropped = {row["query_id"] for row in written} - set(output.rows["query_id"].to_pylist())
    assert dropped == set(sorted(means, key=means.get)[: int(0.1 * (len(means) - 1))])
    assert output.rows.schema == APPROVED.schema
    assert output.rows["query_id"].to_pylist() == [row["query_id"] for row in written if row["query_id"] not in dropped]
    assert output.rows.num_rows + sum(output.drops.values()) == len(written)


def test_a_number_is_the_least_mean_grade_and_drops_are_counted_by_the_lowest_criterion(tmp_path):
    written = rows()
    table = write_table(str(tmp_path), GRADES, GRADES.path, written)
    assert threshold_of(JudgeSettings(model="m", threshold=0.5), WEIGHTS, table) == 0.5
    output = verdict(table, 0.5)
    expected: Counter[str] = Counter()
    stats: Counter[str] = Counter()
    for row in written:
        if row["grades"]:
            (_, a), (_, b) = row["grades"]
            if (3 * a + b) / 4 < 0.5:
                reason = "judge_a" if a <= b else "judge_b"
                expected[reason] += 1
                stats[f"{row['query_type']}/lost/{reason}"] += 1
                stats[f"{reason}@{1 if '@1' in row['query_id'] else 0}"] += 1
    assert output.drops == expected
    assert output.stats == stats
    assert sum(row["grades"] is None for row in written) == 40
    kept = set(output.rows["query_id"].to_pylist())
    assert all(row["query_id"] in kept for row in written if row["grades"] is None)


def test_equal_grades_all_stay_by_auto(tmp_path):
    same = [row | {"grades": [("a", 0.25), ("b", 0.5)]} for row in rows(30)]
    table = write_table(str(tmp_path), GRADES, GRADES.path, same)
    assert verdict(table, threshold_of(JudgeSettings(model="m"), WEIGHTS, table)).rows.num_rows == 30
    empty = write_table(str(tmp_path / "none"), GRADES, GRADES.path, [row | {"grades": None} for row in rows(3)])
    assert verdict(empty, threshold_of(JudgeSettings(model="m"), WEIGHTS, empty)).rows.num_rows == 3


def test_a_criterion_without_a_weight_decides_nothing_and_is_no_reason():
    weights = {"a": 0.0, "b": 2.0}
    assert mean_grade({"a": 0.0, "b": 0.75}, weights) == 0.75
    assert reason_of({"a": 0.0, "b": 0.75}, weights) == "judge_b"


def test_grades_stand_in_the_rows_and_are_counted_in_bins():
    queries = [{key: value for key, value in row.items() if key != "grades"} for row in rows(5)]
    sure = np.array([[0.0, 0.0, 900.0], [900.0, 0.0, 0.0]])
    judged = {
        queries[0]["query_id"]: Judged(sure, 100, 60),
        queries[1]["query_id"]: Judged(None),
        queries[2]["query_id"]: Judged(np.full((2, 3), np.nan), 10, 0),
        queries[3]["query_id"]: Judged(np.zeros((2, 3)), 100, 90),
    }
    output = graded(queries, judged, RUBRIC)
    assert [row["grades"] for row in output.rows.to_pylist()] == [
        [("a", 1.0), ("b", 0.0)], None, [("a", 0.5), ("b", 0.5)], None,
    ]  # fmt: skip
    assert [reject.row for reject in output.rejects] == [queries[2]["query_id"]]
    assert output.stats == {
        "title/a/9": 1, "title/b/0": 1, "title/a/5": 1, "title/b/5": 1, "not_judged": 1,
        "prompt_tokens": 200, "cached_tokens": 150,
    }  # fmt: skip
    assert output.rows.schema == GRADES.schema


def test_a_threshold_is_no_part_of_the_grades_and_a_judge_no_part_of_the_queries():
    judge = JudgeSettings(model="m")
    for change in ({"threshold": 0.3}, {"drop_share": 0.2}, {"weights": {"a": 2}}, {"concurrency": 4}):
        assert identity(judge.model_copy(update=change), RUBRIC) == identity(judge, RUBRIC)
    for change in ({"model": "n"}, {"prompt_characters": 100}, {"engine": "transformers"}):
        assert identity(judge.model_copy(update=change), RUBRIC) != identity(judge, RUBRIC)
    generation = GenerationSettings(engine="vllm", model="m")
    types = load_types(generation)
    with_judge = generation.model_copy(update={"judge": judge})
    assert identity_of_queries(with_judge, types) == identity_of_queries(generation, types)


def test_a_mixture_has_one_judge():
    def sections(*judges):
        return sections_of([GenerationSettings(judge=judge) for judge in judges])

    judge = JudgeSettings(model="m")
    assert one_judge(sections(None, None)) is None
    assert one_judge(sections(None, judge)) == one_judge(sections(judge, judge)) == judge
    with pytest.raises(ValueError, match=r"the judges of generation\.0 and generation\.1 differ"):
        one_judge(sections(judge, JudgeSettings(model="n")))
