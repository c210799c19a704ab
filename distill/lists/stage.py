"""The lists stage: the teachers' scores become training lists, split by source into train and dev.

The scores are scaled between percentiles of the whole run. Every worker computes them from the same sample, so all
workers use the same scale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cluster.errors import InputError
from cluster.schemas import LISTS, section_of
from cluster.tables.columns import list_column
from cluster.tables.commit import drops_of
from cluster.tables.plan_shards import plan_over_tables
from cluster.tables.row_reader import RowReader
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from distill.lists.build import build_list, explain_empty, split_of
from distill.lists.choose import ranks_of
from distill.lists.duplicates import COPIES, Copies
from distill.lists.ensemble import Ensemble
from distill.lists.ensemble_reader import EnsembleReader, ScoreReader, sources_of
from distill.lists.relevance import Relevance, is_judged
from distill.settings.lists import ListSettings
from distill.settings.teachers import TeacherSettings

if TYPE_CHECKING:
    from cluster.run import Run

TEXT_BYTES = 256 << 20  # of passages that a worker keeps between its shards


def build(
    run: Run,
    lists: ListSettings,
    teachers: dict[str, TeacherSettings],
    scores: dict[str, Table],
    candidates: Table,
    passages: Table,
    extractive: bool | frozenset[int],
    student: str | None = None,
    ensemble: Ensemble | None = None,
    judged: Table | None = None,
) -> Table:
    """Makes the training lists: LISTS.

    Args:
        run: the run.
        lists: length, filters, scaling, split.
        teachers: the teachers of the ensemble, by name.
        scores: SCORES of each teacher, by the same names.
        candidates: CANDIDATES.
        passages: PASSAGES.
        extractive: whether the synthetic queries quote their sources; sources are then left out of their own lists. Or
            the numbers of the recipe's sections of which that is true.
        student: name of the teacher that scores as the untrained student does; `lists.choice: contested` needs it.
        ensemble: how the teachers are combined, in the order of `teachers`; None: the weighted sum of raw scores.
        judged: JUDGED_QUERIES, if the run has some; what is relevant to them has the best score of its list.

    Raises:
        InputError: the filters leave no query to train on; says how many each filter took.
    """
    leave_out: bool | list[int]
    leave_out = sorted(extractive) if isinstance(extractive, frozenset) else extractive
    if lists.leave_out_source is not None:
        leave_out = lists.leave_out_source
    names = list(teachers)
    ensemble = ensemble or Ensemble(tuple(teachers[name].weight for name in names))
    fingerprint: dict[str, Any] = {"lists": lists.identity()}
    if lists.choice == "contested":
        assert student is not None, "the recipe is refused without such a teacher"
        fingerprint["student"] = student
    stage = Stage(
        title="lists",
        table=LISTS,
        path=LISTS.path,
        worker=ListWorker,
        arguments={
            "storage": run.storage,
            "scores": [scores[name].path for name in names],
            "ensemble": ensemble,
            "candidates": candidates.path,
            "passages": passages.path,
            "settings": lists,
            "leave_out_source": leave_out,
            "student": scores[student].path if student and lists.choice == "contested" else None,
            "judged": judged.path if judged else None,
        },
        shards=lambda: plan_over_tables([candidates], lists.rows_per_shard),
        fingerprint={
            **fingerprint,
            "leave_out_source": leave_out,
            "weights": dict(zip(names, ensemble.weights, strict=True)),
            **({} if ensemble.is_plain else {"ensemble": {"combine": ensemble.combine, "ranges": ensemble.ranges}}),
            "inputs": [candidates.fingerprint, *(scores[name].fingerprint for name in names)],
        },
        pool=run.settings.io_pool,
    )
    table = run.execute(stage)
    commits = table.commits()
    if not sum(commit.stats.get("train", 0) for commit in commits):
        drops = drops_of(commits)
        drops["dev_split"] = table.num_rows
        raise InputError(explain_empty(candidates.num_rows, drops, lists))
    return table


def student_ranks(scores: ScoreReader, start: int, stop: int) -> dict[str, np.ndarray]:
    """Query id → `(C,) int64` ranks that the student gives to the candidates, for rows `start` to `stop` of CANDIDATES.

    They come from the scores of a teacher that is the student's base.
    """
    return {query: ranks_of(of_query) for query, (of_query,) in scores.read(start, stop).items()}


class ListWorker:
    """Makes lists of the candidates of a shard.

    Args:
        storage: storage of the run.
        scores: paths of SCORES, one per teacher.
        ensemble: how the teachers are combined, in the same order.
        candidates: path of CANDIDATES.
        passages: path of PASSAGES.
        settings: length, choice, filters, scaling, split.
        leave_out_source: whether a source is left out of its own list; or the sections of the recipe for whose queries
            it is.
        student: path of SCORES of the student's base, where the choice needs them.
        judged: path of JUDGED_QUERIES, if the run has some.
    """

    def __init__(
        self,
        storage: Storage,
        scores: Sequence[str],
        ensemble: Ensemble,
        candidates: str,
        passages: str,
        settings: ListSettings,
        leave_out_source: bool | Sequence[int],
        student: str | None = None,
        judged: str | None = None,
    ) -> None:
        self.settings = settings
        self.relevance = Relevance(Table.open(storage, judged) if judged else None)
        self.leave_out_source = leave_out_source
        self.ensemble = EnsembleReader([Table.open(storage, path) for path in scores], ensemble)
        self.scales = self.ensemble.scale(Table.open(storage, candidates), settings)
        self.student = ScoreReader([Table.open(storage, student)]) if student else None
        self.copies = None
        if settings.duplicate_similarity is not None:
            texts = RowReader(Table.open(storage, passages), ["text"], TEXT_BYTES)
            self.copies = Copies(texts, settings.duplicate_similarity)

    def process(self, task: Task) -> Output:
        """Rows of CANDIDATES to LISTS."""
        assert task.rows is not None, "lists are planned over candidates"
        first = task.shard.params["first"] + task.start
        last = first + task.rows.num_rows
        scores = self.ensemble.read(first, last)
        ranks = student_ranks(self.student, first, last) if self.student else {}
        stats: Counter[str] = Counter()
        drops: Counter[str] = Counter()
        rows: list[dict[str, Any]] = []
        queries = task.rows.to_pylist()
        for query, copies in zip(queries, self._find_copies(queries), strict=True):
            if query["query_id"] not in scores:
                drops["no_score"] += 1
                continue
            sources = sources_of(query)
            source, second = [*sources, None, None][:2]
            leaves_out = source is not None and not is_judged(query) and self._leaves_out(query["query_id"])
            raised = self.relevance.raised(query, scores[query["query_id"]])
            scale = self.scales.of(query["query_type"])
            if is_judged(query):
                scale = replace(scale, best=-np.inf)  # people said that something answers it
            training_list = build_list(
                raised, source, scale, self.settings,
                leave_out_source=leaves_out, second=second, copies=copies, student_ranks=ranks.get(query["query_id"]),
            )  # fmt: skip
            stats[COPIES] += 0 if copies is None else int(copies.sum())
            if isinstance(training_list, str):
                drops[training_list] += 1
                continue
            # A logged query has no source. Its words decide instead, so that a repeated query has one split.
            key = f"passage {query['source_id']}" if source is not None else f"log {query['text'].casefold()}"
            split = split_of(key, self.settings.dev_fraction, self.settings.seed)
            if second is not None and split != split_of(
                f"passage {query['second_source_id']}", self.settings.dev_fraction, self.settings.seed
            ):
                drops["two_splits"] += 1  # in either split it would show a passage of the other
                continue
            stats[split] += 1
            candidates = np.array(query["passage_rows"], dtype=np.int64)
            judged = slice(None) if split == "dev" else slice(0)
            truth = self.relevance.dev_scores(query, training_list.pool, training_list.pool_scores)
            rows.append({
                "query_id": query["query_id"], "query_type": query["query_type"], "text": query["text"],
                "passage_rows": candidates[training_list.positions], "scores": training_list.scores, "split": split,
                "dev_rows": candidates[training_list.pool[judged]], "dev_scores": truth[judged],
            })  # fmt: skip
        return Output(_table(rows), drops=dict(drops), stats={name: count for name, count in stats.items() if count})

    def _find_copies(self, queries: list[dict[str, Any]]) -> Sequence[np.ndarray | None]:
        """For each query, which candidates repeat a source; None where that is not asked."""
        if self.copies is None:
            return [None] * len(queries)
        candidates = [np.array(query["passage_rows"], dtype=np.int64) for query in queries]
        found = [[place for place in sources_of(query) if place >= 0] for query in queries]
        return self.copies.find(
            [rows[places].tolist() for rows, places in zip(candidates, found, strict=True)], candidates
        )

    def _leaves_out(self, query: str) -> bool:
        """Whether the source of a synthetic query is left out of its list."""
        if isinstance(self.leave_out_source, bool):
            return self.leave_out_source
        return section_of(query) in self.leave_out_source


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    columns: list[pa.Array] = []
    for field in LISTS.schema:
        values = [row[field.name] for row in rows]
        if pa.types.is_list(field.type):
            flat = np.concatenate(values) if values else np.empty(0)
            columns.append(list_column(flat, np.array([len(value) for value in values]), field.type.value_type))
        else:
            columns.append(pa.array(values, type=field.type))
    return pa.Table.from_arrays(columns, schema=LISTS.schema)
