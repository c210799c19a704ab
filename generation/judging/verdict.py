"""Verdict: drops the queries with the lowest grades. A cheap step, so that another threshold judges nothing anew.

The mean grade of a query is the weighted mean over the criteria. A language model's grades are not calibrated: one
gives 0.9 where another gives 0.5. So by default no fixed grade decides, but the order: the lowest tenth of a run goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cluster.errors import InputError
from cluster.schemas import APPROVED, section_of
from cluster.tables.plan_shards import plan_shards
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from generation.judging.rubric import load_rubric
from generation.judging.settings import JudgeSettings
from generation.type_figures import lost

if TYPE_CHECKING:
    from cluster.run import Run

QUERIES_PER_SHARD = 65_536
REASON = "judge_"  # the reason is this and a criterion


def build(run: Run, judge: JudgeSettings, grades: Table) -> Table:
    """Keeps the queries whose mean grade reaches the threshold, and those without grades.

    Args:
        run: the run.
        judge: threshold and weights.
        grades: GRADES.

    Returns:
        APPROVED, in the same order.

    Raises:
        InputError: no query reaches the threshold.
    """
    weights = load_rubric(judge).weights
    rule: dict[str, Any] = {"threshold": judge.threshold, "weights": weights}
    if judge.threshold == "auto":
        rule["drop_share"] = judge.drop_share
    table = run.execute(
        Stage(
            title="judged queries",
            table=APPROVED,
            path=APPROVED.path,
            worker=VerdictWorker,
            arguments={"weights": weights, "threshold": threshold_of(judge, weights, grades)},
            shards=lambda: plan_shards(grades, QUERIES_PER_SHARD),
            fingerprint={"judge": rule, "grades": grades.fingerprint},
            pool=run.settings.io_pool,
        )
    )
    if grades.num_rows and not table.num_rows:
        best = max(float(means.max()) for means in _all_means(grades, weights) if len(means))
        raise InputError(
            f"generation.judge.threshold is {judge.threshold}, and the best mean grade of {grades.num_rows} queries is "
            f"{best:.3f}: none is left. Lower it, or set it to auto, and run again with --overwrite approved; the "
            "grades stay."
        )
    return table


def threshold_of(judge: JudgeSettings, weights: Mapping[str, float], grades: Table) -> float:
    """The mean grade that a query has to reach. By `auto` at most `drop_share` of the judged queries are below it."""
    if judge.threshold != "auto":
        return judge.threshold
    means = np.concatenate([np.empty(0), *_all_means(grades, weights)])
    return float(np.quantile(means, judge.drop_share, method="lower")) if len(means) else 0.0


def mean_grade(grades: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The weighted mean over the criteria."""
    return sum(weights[name] * grade for name, grade in grades.items()) / sum(weights[name] for name in grades)


def reason_of(grades: Mapping[str, float], weights: Mapping[str, float]) -> str:
    """The reason that a drop is counted under: the criterion with the lowest grade, the first of equals.

    Criteria without a weight decide nothing, and so are no reason.
    """
    return REASON + min((name for name in grades if weights[name]), key=lambda name: grades[name])


def _all_means(grades: Table, weights: Mapping[str, float]) -> list[np.ndarray]:
    return [
        np.array([mean_grade(dict(one), weights) for one in batch.column("grades").to_pylist() if one is not None])
        for batch in grades.batches(["grades"])
    ]


class VerdictWorker:
    """Drops rows whose mean grade is below a threshold.

    Args:
        weights: of the criteria.
        threshold: least mean grade.
    """

    def __init__(self, weights: Mapping[str, float], threshold: float) -> None:
        self.weights = weights
        self.threshold = threshold

    def process(self, task: Task) -> Output:
        """Rows of GRADES to rows of QUERIES, and to drops by the lowest criterion.

        The stats are the figures of every type, and of each section of a recipe, such as `judge_natural@1`.
        """
        assert task.rows is not None, "the verdict is planned over grades"
        keep: list[bool] = []
        drops: Counter[str] = Counter()
        stats: Counter[str] = Counter()
        columns = (task.rows[name].to_pylist() for name in ("query_id", "query_type", "grades"))
        for query_id, query_type, pairs in zip(*columns, strict=True):
            grades = None if pairs is None else dict(pairs)
            keep.append(grades is None or mean_grade(grades, self.weights) >= self.threshold)
            if grades is not None and not keep[-1]:
                reason = reason_of(grades, self.weights)
                drops[reason] += 1
                stats.update(lost([query_type], reason))
                stats[f"{reason}@{section_of(query_id)}"] += 1
        rows = task.rows.select(APPROVED.schema.names).filter(pa.array(keep, pa.bool_()))
        return Output(rows, drops=dict(drops), stats=dict(stats))
