"""What a stage is to the engine: a table to fill, the worker that fills it, all that determines the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.schemas import TableSchema
from cluster.settings import PoolSettings
from cluster.tables.plan import Shard


@dataclass(frozen=True)
class Stage:
    """One call of `Run.execute`.

    Attributes:
        title: shown in the progress bar.
        table: columns and unit of the rows, from the data dictionary.
        path: the table's folder in the workdir, placeholders filled in.
        worker: class that is constructed in each actor as `worker(**arguments)`.
        arguments: picklable; travel to the workers once, through Ray's object store.
        shards: the plan.
        fingerprint: JSON; all that determines the output: settings, models, prompts, fingerprints of input tables.
        pool: how many workers, and what each of them holds.
        reads_files: whether bad input is in files that a person will mend: then nothing of a new table stays, so that
            the mended files are read from the start. Otherwise what is committed stays.
    """

    title: str
    table: TableSchema
    path: str
    worker: type
    arguments: dict[str, Any]
    shards: list[Shard]
    fingerprint: dict[str, Any]
    pool: PoolSettings
    reads_files: bool = False
