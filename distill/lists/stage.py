"""Lists: the teachers' scores become training lists, split by source into train and dev.

The percentiles that scale the scores are those of the run: every worker reads the same sample and finds the same ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cluster.errors import InputError
from cluster.schemas import LISTS
from cluster.tables.columns import list_column
from cluster.tables.lineage import Lineage
from cluster.tables.plan_shards import plan_over_tables
from cluster.tables.row_reader import RowReader
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from distill.lists.build import Scale, build_list, ensemble, explain_empty, scale_of, split_of
from distill.settings import ListSettings, TeacherSettings

if TYPE_CHECKING:
    from cluster.run import Run

SAMPLED_QUERIES = 50_000
SAMPLED_AT_ONCE = 500


def build(
    run: Run,
    lists: ListSettings,
    teachers: dict[str, TeacherSettings],
    scores: dict[str, Table],
    candidates: Table,
    extractive: bool,
) -> Table:
    """Makes the training lists.

    Args:
        run: the run.
        lists: length, filters, scaling, split.
        teachers: the ensemble, by name.
        scores: SCORES of each teacher, by the same names.
        candidates: CANDIDATES.
        extractive: whether the synthetic queries quote their sources, which then leave their own lists.

    Raises:
        InputError: the filters leave no query to train on; says which took how many.
    """
    leave_out = extractive if lists.leave_out_source is None else lists.leave_out_source
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


class Ensemble:
    """The weighted sum of several teachers' scores, read for consecutive rows of CANDIDATES."""

    def __init__(self, tables: Sequence[Table], weights: Sequence[float]) -> None:
        self._readers = [RowReader(table, ["query_id", "scores"], budget_bytes=64 << 20) for table in tables]
        self._lineages = [Lineage(table) for table in tables]
        self._weights = weights

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """(C,) float64 scores by query id; a query that some teacher could not score is left out."""
        per_teacher = []
        for reader, lineage in zip(self._readers, self._lineages, strict=True):
            rows = reader.range(*lineage.outputs(start, stop))
            if not rows.num_rows:
                return {}
            column = rows.column("scores").combine_chunks()
            scores = np.split(column.flatten().to_numpy(), np.cumsum(column.value_lengths().to_numpy())[:-1])
            per_teacher.append(dict(zip(rows.column("query_id").to_pylist(), scores, strict=True)))
        everyone = set.intersection(*(set(scores) for scores in per_teacher))
        return {
            query: ensemble([scores[query] for scores in per_teacher], self._weights)
            for query in per_teacher[0]
            if query in everyone
        }

    def scale(self, queries: int, settings: ListSettings) -> Scale:
        """Percentiles over all queries, or over evenly spread ones where there are more than `SAMPLED_QUERIES`.

        Raises:
            InputError: the teachers score every passage alike.
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
            raise InputError(f"the teachers say nothing: {error}. Use other teachers, or more of them.") from error


class ListWorker:
    """Makes lists of the candidates of a shard.

    Args:
        storage: of the run.
        scores: paths of SCORES, one per teacher.
        weights: of the teachers, in the same order.
        queries: rows of CANDIDATES.
        settings: length, filters, scaling, split.
        leave_out_source: whether a source leaves its own list.
    """

    def __init__(
        self,
        storage: Storage,
        scores: Sequence[str],
        weights: Sequence[float],
        queries: int,
        settings: ListSettings,
        leave_out_source: bool,
    ) -> None:
        self.settings = settings
        self.leave_out_source = leave_out_source
        self.ensemble = Ensemble([Table.open(storage, path) for path in scores], weights)
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
            source = None
            if query["source_id"] is not None:
                ids = query["passage_ids"]
                source = ids.index(query["source_id"]) if query["source_id"] in ids else -1
            made = build_list(
                scores[query["query_id"]], source, self.scale, self.settings, leave_out_source=self.leave_out_source
            )
            if isinstance(made, str):
                drops[made] += 1
                continue
            # A logged query has no source; the same words, logged twice, are on one side all the same.
            key = f"passage {query['source_id']}" if source is not None else f"log {query['text'].casefold()}"
            split = split_of(key, self.settings.dev_fraction, self.settings.seed)
            splits[split] += 1
            rows.append(
                {
                    "query_id": query["query_id"],
                    "query_type": query["query_type"],
                    "text": query["text"],
                    "passage_rows": np.array(query["passage_rows"], dtype=np.int64)[made.positions],
                    "scores": made.scores,
                    "split": split,
                    "left_out_row": query["passage_rows"][source] if self._leaves_out(source) else None,
                }
            )
        return Output(_table(rows), drops=dict(drops), stats=dict(splits))

    def _leaves_out(self, source: int | None) -> bool:
        return self.leave_out_source and source is not None and source >= 0


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    columns: list[pa.Array] = []
    for field in LISTS.schema:
        values = [row[field.name] for row in rows]
        if pa.types.is_list(field.type):
            flat = np.concatenate(values) if values else np.empty(0)
            columns.append(list_column(flat, np.array([len(each) for each in values]), field.type.value_type))
        else:
            columns.append(pa.array(values, type=field.type))
    return pa.Table.from_arrays(columns, schema=LISTS.schema)
