"""A stage as the engine sees it: the table, the worker that fills it, and everything that determines the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.schemas import TableSchema
from cluster.settings import PoolSettings
from cluster.tables.plan import Shard


@dataclass(frozen=True)
class Stage:
    """The argument of `Run.execute`.

    Attributes:
        title: the name that the progress bar shows.
        table: columns and unit of the rows, from the data dictionary (`cluster/schemas.py`).
        path: the table's folder in the workdir, with placeholders filled in.
        worker: a class; each actor constructs it as `worker(**arguments)`.
        arguments: must be picklable; Ray's object store passes them to the workers once.
        shards: the planned shards, or a function that plans them. It is called if the table has no plan yet.
        fingerprint: JSON; everything that determines the output: settings, models, prompts, fingerprints of input
            tables.
        pool: the number of workers and the resources of each.
        many_threads: whether a worker computes with as many threads as it holds cores. Its share of a node is then its
            default.
        imports: modules that the worker needs and that take long to import. A Ray started here imports them once.
        reads_files: whether the stage reads files that a user corrects after an InputError. A new table is then
            removed, so that the corrected files are read from the start. Otherwise committed work is kept.
    """

    title: str
    table: TableSchema
    path: str
    worker: type
    arguments: dict[str, Any]
    shards: list[Shard] | Callable[[], list[Shard]]
    fingerprint: dict[str, Any]
    pool: PoolSettings
    many_threads: bool = False
    imports: tuple[str, ...] = ()
    reads_files: bool = False
