"""Stages whose workers count numbers, and the values in their tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.run import Run
from cluster.settings import PoolSettings
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from tests.cluster.example_workers import NUMBERS, Count, shards

MakeRun = Callable[..., Run]


def numbers(
    rows: int = 100, rows_per_shard: int = 10, worker: type = Count, path: str = "numbers",
    pool: PoolSettings | None = None, fingerprint: dict[str, Any] | None = None, **arguments: Any,
) -> Stage:  # fmt: skip
    planned = shards(rows, rows_per_shard)
    return Stage("numbers", NUMBERS, path, worker, arguments, planned, fingerprint or {"v": 1}, pool or PoolSettings())


def values(table: Table) -> list[int]:
    return table.read()["value"].to_pylist()
