"""Grades: a language model grades every written query by the rubric. Which of them stay is the business of `verdict`.

So grades are computed once, and people may look at them and choose another threshold afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.schemas import GRADES, section_of
from cluster.settings import PoolSettings
from cluster.tables.mapped_column import mapped_column
from cluster.tables.plan_shards import plan_over_tables
from cluster.tables.row_reader import RowReader
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Reject, Task
from generation import queries
from generation.judging.engines import open_judge
from generation.judging.grades import expected_grades
from generation.judging.judged import Judged, as_generation
from generation.judging.likelihood import wording_digest
from generation.judging.prompts import Pair, judge_template_digest
from generation.judging.rubric import Rubric, load_rubric
from generation.judging.settings import JudgeSettings
from generation.mixture import Section
from generation.settings import GenerationSettings

if TYPE_CHECKING:
    from cluster.run import Run

NOT_JUDGED = "not_judged"  # counts queries whose prompt does not fit the model's context; they stay
BINS = 10  # of equal width, in which grades are counted
# Where and how fast the model runs, and what is decided when all grades are there.
_NOT_GRADES = {
    "pool", "rows_per_shard", "concurrency", "batch_size", "tensor_parallel", "rubric", "weights", "threshold",
    "drop_share",
}  # fmt: skip


def build(
    run: Run, judge: JudgeSettings, passages: Table, written: Sequence[Table], judged_sections: frozenset[int]
) -> Table:
    """Grades queries.

    Args:
        run: the run.
        judge: the model, and its rubric.
        passages: PASSAGES, for the text of the sources.
        written: tables with the columns of QUERIES, such as DISTINCT.
        judged_sections: sections of the recipe whose queries are graded; the others' go through without grades.

    Returns:
        GRADES, in the order of the queries.

    Raises:
        InputError: the model cannot be loaded, or does not know a grade of the rubric.
    """
    rubric = load_rubric(judge)
    return run.execute(
        Stage(
            title="grades",
            table=GRADES,
            path=GRADES.path,
            worker=JudgeWorker,
            arguments={
                "judge": judge,
                "rubric": rubric,
                "storage": run.storage,
                "passages_path": passages.path,
                "judged_sections": judged_sections,
            },
            shards=lambda: plan_over_tables(written, judge.rows_per_shard),
            fingerprint={
                "judge": identity(judge, rubric),
                "sections": sorted(judged_sections),
                "queries": [table.fingerprint for table in written],
                "passages": passages.fingerprint,
            },
            pool=place(judge),
            many_threads=True,
        )
    )


def identity(judge: JudgeSettings, rubric: Rubric) -> dict[str, Any]:
    """What determines the grades."""
    settings = judge.model_dump(mode="json", exclude=_NOT_GRADES)
    # so that runs from before there were these fields continue
    if judge.revision is None:
        del settings["revision"]
    if judge.by == "rubric":
        del settings["by"]
    template = wording_digest() if judge.by == "likelihood" else judge_template_digest()
    arguments = settings["engine_args"]
    settings["engine_args"] = {key: value for key, value in arguments.items() if key not in queries.PLACEMENT_ARGS}
    return settings | {"rubric": rubric.digest, "template": template}


def place(judge: JudgeSettings) -> PoolSettings:
    """The pool of the judge; an engine over several GPUs is one worker that holds them all."""
    return queries.place(as_generation(judge))


def one_judge(sections: Mapping[Section, GenerationSettings]) -> JudgeSettings | None:
    """The judge of a run; None where no section has one.

    Raises:
        ValueError: two sections name different ones.
    """
    named = {section.field: settings.judge for section, settings in sections.items() if settings.judge}
    first = next(iter(named.values()), None)
    if any(other != first for other in named.values()):
        raise ValueError(
            f"the judges of {' and '.join(named)} differ. One judge grades all queries, since grades of two models are "
            "not comparable: give these sections the same, and leave it out where no query is to be judged"
        )
    return first


class JudgeWorker:
    """Has a model grade the queries of a shard.

    Args:
        judge: the model, and how it runs.
        rubric: what it is asked.
        storage: storage of the run.
        passages_path: path of PASSAGES.
        judged_sections: sections of the recipe whose queries are graded.
    """

    def __init__(
        self,
        judge: JudgeSettings,
        rubric: Rubric,
        storage: Storage,
        passages_path: str,
        judged_sections: frozenset[int] = frozenset({0}),
    ) -> None:
        self.rubric = rubric
        self.judged_sections = judged_sections
        table = Table.open(storage, passages_path)
        self._ids = mapped_column(table, "passage_id")
        self._texts = RowReader(table, ["passage_id", "title", "text"])
        self.engine = open_judge(judge, rubric)

    async def process(self, task: Task) -> Output:
        """Rows of QUERIES to rows of GRADES; a row whose grades are no numbers is rejected."""
        assert task.rows is not None, "grades are planned over queries"
        rows = task.rows.to_pylist()
        asked = [row for row in rows if section_of(row["query_id"]) in self.judged_sections]
        passages = self._passages({source for row in asked for source in _sources(row)})
        pairs = [
            Pair(row["query_id"], row["text"], tuple(passages[source] for source in _sources(row))) for row in asked
        ]
        judged = dict(zip((pair.query_id for pair in pairs), await self.engine.judge(pairs), strict=True))
        return graded(rows, judged, self.rubric)

    def _passages(self, wanted: set[str]) -> dict[str, tuple[str, str]]:
        """Title and text of passages by id."""
        found = pc.is_in(self._ids, value_set=pa.array(sorted(wanted), pa.string()))
        rows = self._texts.take(np.flatnonzero(found.to_numpy())).to_pylist()
        return {row["passage_id"]: (row["title"] or "", row["text"] or "") for row in rows}

    def close(self) -> None:
        """Ends the engine."""
        self.engine.close()


def graded(rows: Sequence[dict[str, Any]], judged: Mapping[str, Judged], rubric: Rubric) -> Output:
    """Rows of QUERIES with their grades.

    Args:
        rows: of QUERIES.
        judged: by query id, what the model says; other rows go through.
        rubric: names the criteria.

    Returns:
        Rows of GRADES. The stats count grades in bins: `claim/answerable/7` counts claims from 0.7 to under 0.8.
    """
    kept, rejects, stats = [], [], Counter[str]()
    for row in rows:
        found = judged.get(row["query_id"])
        grades = None
        logits = found.logits if found else None
        if found is not None and logits is None:
            stats[NOT_JUDGED] += 1
        elif found is not None and logits is not None:
            values = expected_grades(logits)
            if not np.isfinite(values).all():
                rejects.append(Reject(row["query_id"], "the judge's logits are no numbers"))
                continue
            grades = dict(zip(rubric.questions, values.tolist(), strict=True))
            stats.update(
                f"{row['query_type']}/{name}/{min(BINS - 1, int(grade * BINS))}" for name, grade in grades.items()
            )
            stats.update(prompt_tokens=found.prompt_tokens, cached_tokens=found.cached_tokens)
        kept.append(row | {"grades": None if grades is None else list(grades.items())})
    table = pa.Table.from_pylist(kept, schema=GRADES.schema)
    return Output(table, rejects=rejects, tokens=stats["prompt_tokens"], stats=dict(stats))


def _sources(row: Mapping[str, Any]) -> list[str]:
    """The passage of a query, or both."""
    return [source for source in (row["source_id"], row.get("second_source_id")) if source is not None]
