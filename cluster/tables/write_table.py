"""A table that one process writes as a whole, from rows that exist already and need no workers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import Any

import pyarrow as pa

from cluster.schemas import TableSchema
from cluster.tables.commit import Commit, publish, put_rows
from cluster.tables.plan import Plan, Shard
from cluster.tables.storage import Storage

ROWS_PER_FILE = 50_000


def write_table(
    storage: Storage, path: str, schema: TableSchema, rows: Iterable[dict[str, Any]], fingerprint: dict[str, Any]
) -> None:
    """Writes and commits a table, in data files of `ROWS_PER_FILE` rows.

    The plan is written last. So readers see the complete table, or none.
    """
    plan = Plan.new(schema, [], fingerprint)
    shards: list[Shard] = []
    remaining = iter(rows)
    while part := list(islice(remaining, ROWS_PER_FILE)):
        shards.append(Shard(f"{len(shards):05d}", len(part)))
        files = put_rows(storage, path, shards[-1].name, pa.Table.from_pylist(part, schema=schema.schema))
        commit = Commit(shards[-1].name, files, len(part), len(part), {}, 0, 0, 0.0, "driver", "driver")
        publish(storage, path, plan.id, commit)
    storage.put(f"{path}/plan.json", replace(plan, shards=tuple(shards)).to_bytes())
