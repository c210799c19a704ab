"""Distinct queries: near-duplicates among all written queries of a run go, whichever sources they were written for.

That is a decision over the whole table. The first worker on a machine takes it, all others there read it, so that
nothing but row ranges travels. Logged queries are not looked at: how often people ask the same is worth knowing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from cluster.machines.shared_folder import shared_folder
from cluster.schemas import DISTINCT
from cluster.tables.plan_shards import plan_over_tables, plan_shards
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from generation.near_duplicates import near_duplicates
from generation.type_figures import lost

if TYPE_CHECKING:
    from cluster.run import Run

QUERIES_PER_SHARD = 65_536
NEAR_DUPLICATE = "near_duplicate"
_DROPPED = "dropped"


def build(run: Run, threshold: float, written: Sequence[Table]) -> Table:
    """Keeps of queries that say the same the first.

    Args:
        run: the run.
        threshold: Jaccard index from which two queries are the same.
        written: QUERIES of one or more sections of the recipe; they are compared with each other too.
    """
    several = len(written) > 1
    return run.execute(
        Stage(
            title="distinct queries",
            table=DISTINCT,
            path=DISTINCT.path,
            worker=DistinctWorker,
            arguments={
                "storage": run.storage,
                "written": [table.path for table in written],
                "threshold": threshold,
            },
            shards=lambda: (
                plan_over_tables(written, QUERIES_PER_SHARD) if several else plan_shards(written[0], QUERIES_PER_SHARD)
            ),
            fingerprint={
                "near_duplicates": threshold,
                "queries": [table.fingerprint for table in written] if several else written[0].fingerprint,
            },
            pool=run.settings.io_pool,
        )
    )


class DistinctWorker:
    """Drops the rows of a range that repeat an earlier query of its table, or of a table before it.

    Args:
        storage: storage of the run.
        written: paths of QUERIES.
        threshold: Jaccard index from which two queries are the same.
    """

    def __init__(self, storage: Storage, written: Sequence[str], threshold: float) -> None:
        tables = [Table.open(storage, path) for path in written]
        self._first_row: dict[str, int] = {}
        start = 0
        for file, rows in (file for table in tables for file in table.files()):
            self._first_row[file] = start
            start += rows

        def decide(folder: Path) -> None:
            near_duplicates(_texts(tables), threshold, folder).tofile(folder / _DROPPED)
            for path in folder.iterdir():
                if path.name != _DROPPED:
                    path.unlink()

        folder = shared_folder(f"distinct-{'-'.join(table.fingerprint for table in tables)}-{threshold}", decide)
        # one byte for each query; a table without queries has no shard, and an empty file cannot be mapped
        self._dropped = np.memmap(folder / _DROPPED, dtype=np.bool_, mode="r")

    def process(self, task: Task) -> Output:
        """Rows of QUERIES to the same rows, and to drops."""
        assert task.rows is not None, "distinct queries are planned over queries"
        ranges = [
            np.arange(self._first_row[piece.file] + piece.start, self._first_row[piece.file] + piece.stop)
            for piece in task.shard.slices
        ]
        dropped = self._dropped[np.concatenate(ranges)[task.start : task.stop]]
        types = task.rows["query_type"].filter(pa.array(dropped)).to_pylist()
        stats = dict(lost(types, NEAR_DUPLICATE))
        return Output(task.rows.filter(pa.array(~dropped)), drops={NEAR_DUPLICATE: len(types)}, stats=stats)


def _texts(tables: Sequence[Table]) -> Iterator[list[str]]:
    for table in tables:
        for batch in table.batches(["text"]):
            yield batch.column("text").to_pylist()
