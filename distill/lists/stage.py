"""The lists stage: the teachers' scores become training lists, split by source into train and dev.

The scores are scaled between percentiles of the whole run. Every worker computes them from the same sample, so all
workers use the same scale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cluster.errors import InputError
from cluster.schemas import LISTS, section_of
from cluster.tables.columns import list_column
from cluster.tables.lineage import Lineage
from cluster.tables.plan_shards import plan_over_tables
from cluster.tables.row_reader import RowReader
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from distill.lists.build import Scale, build_list, ensemble_scores, explain_empty, scale_of, split_of
from distill.settings import ListSettings, TeacherSettings

if TYPE_CHECKING:
    from cluster.run import Run

SAMPLED_QUERIES = 50_000  # whose scores give the percentiles
SAMPLED_AT_ONCE = 500  # consecutive queries that are read together


def build(
    run: Run,
    lists: ListSettings,
    teachers: dict[str, TeacherSettings],
    scores: dict[str, Table],
    candidates: Table,
    extractive: bool | frozenset[int],
) -> Table:
    """Makes the training lists: LISTS.

    Args:
        run: the run.
        lists: length, filters, scaling, split.
        teachers: the teachers of the ensemble, by name.
        scores: SCORES of each teacher, by the same names.
        candidates: CANDIDATES.
        extractive: whether the synthetic queries quote their sources; sources are then left out of their own lists. Or
            the numbers of the recipe's sections of which that is true.

    Raises:
        InputError: the filters leave no query to train on; says how many each filter took.
    """
    leave_out: bool | list[int]
    leave_out = sorted(extractive) if isinstance(extractive, frozenset) else extractive
    if lists.leave_out_source is not None:
        leave_out = lists.leave_out_source
    names = list(teachers)
    weights = [teachers[name].weight for name in names]
    stage = Stage(
        title="lists",
        table=LISTS,
        path=LISTS.path,
        worker=ListWorker,
        arguments={
            "storage": run.storage,
            "scores": [scores[name].path for name in names],
            "weights": weights,
            "queries": candidates.num_rows,
            "settings": lists,
            "leave_out_source": leave_out,
        },
        shards=plan_over_tables([candidates], lists.rows_per_shard),
        fingerprint={
            "lists": lists.model_dump(mode="json", exclude={"rows_per_shard", "leave_out_source"}),
            "leave_out_source": leave_out,
            "weights": dict(zip(names, weights, strict=True)),
            "inputs": [candidates.fingerprint, *(scores[name].fingerprint for name in names)],
        },
        pool=run.settings.io_pool,
    )
    table = run.execute(stage)
    commits = table.commits()
    if not sum(commit.stats.get("train", 0) for commit in commits):
        drops: Counter[str] = sum((Counter(commit.drops) for commit in commits), Counter())
        drops["dev_split"] = table.num_rows
        raise InputError(explain_empty(candidates.num_rows, drops, lists))
    return table


class EnsembleReader:
    """Reads the teachers' scores for rows of CANDIDATES and sums them with their weights.

    Args:
        tables: SCORES of each teacher.
        weights: weight of each teacher.
    """

    def __init__(self, tables: Sequence[Table], weights: Sequence[float]) -> None:
        self._readers = [RowReader(table, ["query_id", "scores"], budget_bytes=64 << 20) for table in tables]
        self._lineages = [Lineage(table) for table in tables]
        self._weights = weights

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Query id → `(C,) float64` ensemble scores, for rows `start` to `stop` of CANDIDATES.

        A query that a teacher could not score is left out.
        """
        per_teacher = []
        for reader, lineage in zip(self._readers, self._lineages, strict=True):
            rows = reader.range(*lineage.outputs(start, stop))
            if not rows.num_rows:
                return {}
            column = rows.column("scores").combine_chunks()
            scores = np.split(column.flatten().to_numpy(), np.cumsum(column.value_lengths().to_numpy())[:-1])
            per_teacher.append(dict(zip(rows.column("query_id").to_pylist(), scores, strict=True)))
        scored_by_all = set.intersection(*(set(scores) for scores in per_teacher))
        return {
            query: ensemble_scores([scores[query] for scores in per_teacher], self._weights)
            for query in per_teacher[0]
            if query in scored_by_all
        }

    def scale(self, queries: int, settings: ListSettings) -> Scale:
        """Percentiles over all queries, or over evenly spread ones if there are more than `SAMPLED_QUERIES`.

        Args:
            queries: rows of CANDIDATES.
            settings: the percentiles.

        Raises:
            InputError: no query has scores of all teachers, or every passage has the same score.
        """
        starts = np.arange(0, queries, SAMPLED_AT_ONCE)
        most = SAMPLED_QUERIES // SAMPLED_AT_ONCE
        if len(starts) > most:
            starts = starts[np.linspace(0, len(starts) - 1, most).astype(int)]
        sample: dict[str, np.ndarray] = {}
        for start in starts.tolist():
            sample |= self.read(start, min(start + SAMPLED_AT_ONCE, queries))
        if not sample:
            raise InputError("no query has scores from all teachers; look at the rejects of the scores stage")
        try:
            return scale_of(list(sample.values()), settings)
        except ValueError as error:
            raise InputError(f"the teachers' scores do not differ: {error}. Use other teachers, or more.") from error


class ListWorker:
    """Makes lists of the candidates of a shard.

    Args:
        storage: storage of the run.
        scores: paths of SCORES, one per teacher.
        weights: weights of the teachers, in the same order.
        queries: rows of CANDIDATES.
        settings: length, filters, scaling, split.
        leave_out_source: whether a source is left out of its own list; or the sections of the recipe for whose queries
            it is.
    """

    def __init__(
        self,
        storage: Storage,
        scores: Sequence[str],
        weights: Sequence[float],
        queries: int,
        settings: ListSettings,
        leave_out_source: bool | Sequence[int],
    ) -> None:
        self.settings = settings
        self.leave_out_source = leave_out_source
        self.ensemble = EnsembleReader([Table.open(storage, path) for path in scores], weights)
        self.scale = self.ensemble.scale(queries, settings)

    def process(self, task: Task) -> Output:
        """Rows of CANDIDATES to LISTS."""
        assert task.rows is not None, "lists are planned over candidates"
        first = task.shard.params["first"] + task.start
        scores = self.ensemble.read(first, first + task.rows.num_rows)
        drops: Counter[str] = Counter()
        splits: Counter[str] = Counter()
        rows: list[dict[str, Any]] = []
        for query in task.rows.to_pylist():
            if query["query_id"] not in scores:
                drops["no_score"] += 1
                continue
            second_id = query.get("second_source_id")
            source, second = (_position(query["passage_ids"], one) for one in (query["source_id"], second_id))
            leaves_out = source is not None and self._leaves_out(query["query_id"])
            training_list = build_list(
                scores[query["query_id"]], source, self.scale, self.settings,
                leave_out_source=leaves_out, second=second,
            )  # fmt: skip
            if isinstance(training_list, str):
                drops[training_list] += 1
                continue
            # A logged query has no source. Its words decide instead, so that a repeated query has one split.
            key = f"passage {query['source_id']}" if source is not None else f"log {query['text'].casefold()}"
            split = split_of(key, self.settings.dev_fraction, self.settings.seed)
            if second is not None and split != split_of(
                f"passage {second_id}", self.settings.dev_fraction, self.settings.seed
            ):
                drops["two_splits"] += 1  # in either split it would show a passage of the other
                continue
            splits[split] += 1
            rows.append(
                {
                    "query_id": query["query_id"],
                    "query_type": query["query_type"],
                    "text": query["text"],
                    "passage_rows": np.array(query["passage_rows"], dtype=np.int64)[training_list.positions],
                    "scores": training_list.scores,
                    "split": split,
                    "left_out_row": query["passage_rows"][source]
                    if leaves_out and source is not None and source >= 0
                    else None,
                }
            )
        return Output(_table(rows), drops=dict(drops), stats=dict(splits))

    def _leaves_out(self, query: str) -> bool:
        """Whether the source of a synthetic query is left out of its list."""
        if isinstance(self.leave_out_source, bool):
            return self.leave_out_source
        return section_of(query) in self.leave_out_source


def _position(passage_ids: list[str], source: str | None) -> int | None:
    """Place of a source among the candidates; -1 if it is not among them, None if there is no source."""
    if source is None:
        return None
    return passage_ids.index(source) if source in passage_ids else -1


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
