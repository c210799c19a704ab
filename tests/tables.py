"""Puts rows into a committed table without a cluster, for tests that begin in the middle of a run."""

from __future__ import annotations

import pyarrow as pa

from cluster.schemas import TableSchema
from cluster.tables.commit import Commit, publish, put_rows
from cluster.tables.plan import Plan, Shard
from cluster.tables.storage import Storage
from cluster.tables.table import Table


def write_table(
    workdir: str, schema: TableSchema, path: str, rows: list[dict], rejects: int = 0, **fingerprint
) -> Table:
    storage = Storage(workdir)
    plan = Plan.new(schema, [Shard("00000", len(rows) + rejects, 1, (), {})], fingerprint)
    storage.put(f"{path}/plan.json", plan.to_bytes())
    files = put_rows(storage, path, "00000", pa.Table.from_pylist(rows, schema=schema.schema))
    commit = Commit("00000", files, len(rows), len(rows) + rejects, {}, rejects, 0, 0.0, "test", "test")
    publish(storage, path, plan.id, commit)
    return Table.open(storage, path)
