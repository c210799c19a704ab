"""Chosen passages: the decision for which passages queries are written, taken once, by one worker.

The rows stand in the order in which they are to be used. All its beginnings are chosen as the whole is: a random
sample, one that is spread over clusters, or the first ids of a file. So a budget may use the first of them alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import InputError
from cluster.schemas import CHOSEN, stage_of
from cluster.tables.plan import Shard
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.tables.vectors import rows_of_vectors
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from generation.passages import how_many, sample
from generation.sources.clusters import assign, default_clusters, train
from generation.sources.ids import Listed, read_ids
from generation.sources.settings import SourceSettings
from generation.sources.spread import log_weights, spread_order

if TYPE_CHECKING:
    from cluster.run import Run

NOT_CHOSEN = "not_chosen"
MOST_UNKNOWN = 0.1  # of the ids of a file; more are a file of another corpus
_TOLD = 20  # unknown ids, in the log

_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)


def build(
    run: Run,
    settings: SourceSettings,
    most: int,
    seed: int,
    passages: Table,
    vectors: Table | None,
    log_vectors: Table | None,
) -> Table:
    """Chooses the passages: CHOSEN.

    Args:
        run: the run.
        settings: the way.
        most: of them.
        seed: of every draw.
        passages: PASSAGES; only rows where `is_source` is true are chosen.
        vectors: PASSAGE_VECTORS of the base model, where the way needs them.
        log_vectors: vectors of QUERY_LOG by the same model, where the way needs them.

    Raises:
        InputError: many ids of a file are no passages, or no passage is left.
    """
    listed = read_ids(settings.file, settings.id_field) if settings.file else None
    table = run.execute(
        Stage(
            title="sources: choice",
            table=CHOSEN,
            path=CHOSEN.path,
            worker=ChoiceWorker,
            arguments={
                "storage": run.storage,
                "passages": passages.path,
                "vectors": vectors.path if vectors else None,
                "log_vectors": log_vectors.path if log_vectors else None,
                "settings": settings,
                "most": most,
                "seed": seed,
                "listed": listed,
            },
            # one unit of work, whatever the number of passages: half of a decision would be another decision
            shards=[Shard("00000", 1, passages.num_rows)],
            fingerprint={
                "sources": settings.model_dump(mode="json", exclude={"file", "id_field"}),
                "ids": _digest(listed),
                "max_sources": most,
                "seed": seed,
                "passages": passages.fingerprint,
                # what the vectors are made of, and not their tables, which may be made again
                "vectors": [table.plan.fingerprint for table in (vectors, log_vectors) if table],
            },
            pool=run.settings.io_pool.model_copy(update={"workers": 1}),
            many_threads=settings.needs_vectors,
            reads_files=True,
        )
    )
    _say(run, settings, table)
    return table


def _say(run: Run, settings: SourceSettings, table: Table) -> None:
    stats = {name: count for commit in table.commits() for name, count in commit.stats.items()}
    told = f"sources: {table.num_rows:,} of {stats.get('eligible', 0):,} passages chosen by {settings.by}"
    if clusters := stats.get("clusters"):
        told += f", from {stats['clusters_chosen']:,} of {clusters:,} clusters"
    if unknown := stats.get("unknown", 0) + stats.get("excluded", 0):
        told += f"; {unknown:,} ids of {settings.file} are left out, which logs/{stage_of(CHOSEN.path)}.log names"
    run.progress.say(told)


class ChoiceWorker:
    """Chooses among all passages; the arguments are those of `build`, tables by their paths."""

    def __init__(
        self,
        storage: Storage,
        passages: str,
        vectors: str | None,
        log_vectors: str | None,
        settings: SourceSettings,
        most: int,
        seed: int,
        listed: list[Listed] | None,
    ) -> None:
        columns = Table.open(storage, passages).read(["passage_id", "is_source"])
        self._ids = columns["passage_id"]
        self._eligible = columns["is_source"].to_numpy()
        self._vectors = Table.open(storage, vectors) if vectors else None
        self._log_vectors = Table.open(storage, log_vectors) if log_vectors else None
        self.settings, self.most, self.seed, self.listed = settings, most, seed, listed

    def process(self, task: Task) -> Output:
        """Rows of CHOSEN; every other passage is a drop."""
        stats: dict[str, int] = {"eligible": int(self._eligible.sum())}
        labels: np.ndarray | None = None
        if self.listed is not None:
            rows = self._rows_of_ids(self.listed, stats)[: self.most]
        elif self.settings.needs_vectors:
            labels = self._labels(stats)
            rows = self._spread(labels, stats)
            stats["clusters_chosen"] = len(np.unique(labels[rows]))
        else:
            number = how_many(stats["eligible"], self.most, self.settings.share)
            chosen = np.flatnonzero(sample(self._eligible, number, self.seed))
            rows = np.random.default_rng([self.seed, 1]).permutation(chosen)
        if not len(rows):
            raise InputError(
                f"corpus.sources: of {len(self._ids)} passages none is chosen; {stats['eligible']} may be sources. "
                "Set corpus.sources to another way, or corpus.exclude_judged_sources=false."
            )
        clusters = pa.nulls(len(rows), pa.int32()) if labels is None else pa.array(labels[rows], pa.int32())
        ids = self._ids.take(pa.array(rows)).combine_chunks()
        table = pa.Table.from_arrays([ids, pa.array(rows, pa.int64()), clusters], schema=CHOSEN.schema)
        return Output(table, drops={NOT_CHOSEN: len(self._ids) - len(rows)}, stats=stats)

    def _spread(self, labels: np.ndarray, stats: Mapping[str, int]) -> np.ndarray:
        members = np.flatnonzero(self._eligible & (labels >= 0))
        sizes = np.bincount(labels[members], minlength=stats["clusters"])
        if self.settings.by == "query_log":
            weights = log_weights(self._asked, sizes, self.settings.floor)
        else:
            weights = np.ones(len(sizes))
        number = how_many(len(members), self.most, self.settings.share)
        return members[spread_order(labels[members], weights, self.seed)[:number]]

    def _labels(self, stats: dict[str, int]) -> np.ndarray:
        """The cluster of every passage; -1 for one without a vector. Counts the queries of the log in each."""
        assert self._vectors is not None, "the pipeline embeds the passages first"
        wanted = self.settings.clusters or default_clusters(self._vectors.num_rows)
        centroids = train(self._vectors, wanted, self.seed)
        stats["clusters"] = len(centroids)
        rows = rows_of_vectors(self._vectors, self._ids)
        labels = np.full(len(self._ids), -1, np.int32)
        labels[slice(None) if rows is None else rows] = assign(self._vectors, centroids)
        if self._log_vectors:
            asked = assign(self._log_vectors, centroids)
            self._asked = np.bincount(asked, minlength=len(centroids))
            stats["logged"] = len(asked)
        return labels

    def _rows_of_ids(self, listed: list[Listed], stats: dict[str, int]) -> np.ndarray:
        """Rows of those passages of a file that may be sources, in the order of the file.

        Raises:
            InputError: more than `MOST_UNKNOWN` of the ids are no passages.
        """
        names = pa.array([one.passage_id for one in listed], pa.string())
        found = pc.index_in(names, value_set=self._ids.combine_chunks())
        rows = pc.fill_null(found, -1).to_numpy().astype(np.int64)
        unknown = [one for one, row in zip(listed, rows, strict=True) if row < 0]
        excluded = [one for one, row in zip(listed, rows, strict=True) if row >= 0 and not self._eligible[row]]
        file = self.settings.file
        if len(unknown) > MOST_UNKNOWN * len(listed):
            raise InputError(
                f"corpus.sources.file: {len(unknown)} of the {len(listed)} ids of {file} are no passages of the "
                f"corpus, such as {_shown(unknown, 3)}. Expected ids as the corpus has them; a record that was "
                "dropped, as a duplicate or as too short, is no passage. Correct the file."
            )
        for what, those in (("no passages", unknown), ("judged by the evaluation, and left out", excluded)):
            if those:
                more = f", and {len(those) - _TOLD} more" if len(those) > _TOLD else ""
                _log.warning("%s: %d ids are %s: %s%s", file, len(those), what, _shown(those, _TOLD), more)
        stats |= {"unknown": len(unknown), "excluded": len(excluded)}
        return np.array([row for row in rows.tolist() if row >= 0 and self._eligible[row]], dtype=np.int64)


def _shown(listed: list[Listed], most: int) -> str:
    return ", ".join(f"'{one.passage_id}' (line {one.line})" for one in listed[:most])


def _digest(listed: list[Listed] | None) -> Any:
    if listed is None:
        return None
    import hashlib

    names = hashlib.blake2b("\n".join(one.passage_id for one in listed).encode(), digest_size=12).hexdigest()
    return [len(listed), names]
