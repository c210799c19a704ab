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
from cluster.tables.plan_shards import plan_over_tables
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from distill.lists.build import build_list, explain_empty, split_of
from distill.lists.ensemble import Ensemble
from distill.lists.ensemble_reader import EnsembleReader
from distill.settings import ListSettings, TeacherSettings

if TYPE_CHECKING:
    from cluster.run import Run


def build(
    run: Run,
    lists: ListSettings,
    teachers: dict[str, TeacherSettings],
    scores: dict[str, Table],
    candidates: Table,
    extractive: bool | frozenset[int],
    ensemble: Ensemble | None = None,
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
        ensemble: how the teachers are combined, in the order of `teachers`; None: the weighted sum of raw scores.

    Raises:
        InputError: the filters leave no query to train on; says how many each filter took.
    """
    leave_out: bool | list[int]
    leave_out = sorted(extractive) if isinstance(extractive, frozenset) else extractive
    if lists.leave_out_source is not None:
        leave_out = lists.leave_out_source
    names = list(teachers)
    ensemble = ensemble or Ensemble(tuple(teachers[name].weight for name in names))
    stage = Stage(
        title="lists",
        table=LISTS,
        path=LISTS.path,
        worker=ListWorker,
        arguments={
            "storage": run.storage,
            "scores": [scores[name].path for name in names],
            "ensemble": ensemble,
            "queries": candidates.num_rows,
            "settings": lists,
            "leave_out_source": leave_out,
        },
        shards=plan_over_tables([candidates], lists.rows_per_shard),
        fingerprint={
            "lists": lists.model_dump(mode="json", exclude={"rows_per_shard", "leave_out_source"}),
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
        drops: Counter[str] = sum((Counter(commit.drops) for commit in commits), Counter())
        drops["dev_split"] = table.num_rows
        raise InputError(explain_empty(candidates.num_rows, drops, lists))
    return table


class ListWorker:
    """Makes lists of the candidates of a shard.

    Args:
        storage: storage of the run.
        scores: paths of SCORES, one per teacher.
        ensemble: how the teachers are combined, in the same order.
        queries: rows of CANDIDATES.
        settings: length, filters, scaling, split.
        leave_out_source: whether a source is left out of its own list; or the sections of the recipe for whose queries
            it is.
    """

    def __init__(
        self,
        storage: Storage,
        scores: Sequence[str],
        ensemble: Ensemble,
        queries: int,
        settings: ListSettings,
        leave_out_source: bool | Sequence[int],
    ) -> None:
        self.settings = settings
        self.leave_out_source = leave_out_source
        self.ensemble = EnsembleReader([Table.open(storage, path) for path in scores], ensemble)
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
