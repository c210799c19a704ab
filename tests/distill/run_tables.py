"""Tables of a run, written by hand, so that a stage can be tested without the stages before it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from cluster.run import Run
from cluster.schemas import PASSAGES, QUERIES, QUERY_LOG, TableSchema
from cluster.tables.commit import Commit, publish, put_rows
from cluster.tables.plan import Plan, Shard
from cluster.tables.table import Table
from tests.corpus import ASPECTS, PLACES
from tests.corpus import QUERIES as TEMPLATES


def write_table(
    run: Run, schema: TableSchema, rows: list[dict[str, Any]], *, path: str = "", files: int = 3, rejects: int = 0
) -> Table:
    """Commits `rows` in `files` shards; `rejects` units of each came to nothing."""
    path = path or schema.path
    size = -(-len(rows) // files)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    shards = [Shard(f"{number:05d}", len(part) + rejects) for number, part in enumerate(parts)]
    plan = Plan.new(schema, shards, {})
    run.storage.put(f"{path}/plan.json", plan.to_bytes())
    for shard, part in zip(shards, parts, strict=True):
        data = put_rows(run.storage, path, shard.name, pa.Table.from_pylist(part, schema=schema.schema))
        commit = Commit(shard.name, data, len(part), len(part) + rejects, {}, rejects, 0, 0.0, "test", "test")
        publish(run.storage, path, plan.id, commit)
    return Table.open(run.storage, path)


def write_passages(run: Run) -> Table:
    """The hundred passages as PASSAGES."""
    rows = [
        {"passage_id": f"p{number:02d}{aspect}", "title": place[0], "text": template.format(*place), "is_source": True}
        for number, place in enumerate(PLACES)
        for aspect, template in enumerate(ASPECTS)
    ]
    return write_table(run, PASSAGES, rows)


def write_queries(run: Run) -> Table:
    """One query for each of the hundred passages, as QUERIES."""
    rows = [
        {
            "query_id": f"q{number:02d}{aspect}",
            "source_id": f"p{number:02d}{aspect}",
            "query_type": "question",
            "text": template.format(*place),
            "sample": 0,
        }
        for number, place in enumerate(PLACES)
        for aspect, template in enumerate(TEMPLATES)
    ]
    return write_table(run, QUERIES, rows, files=2)


def write_log(run: Run) -> Table:
    """Three logged queries, one of which no passage answers, as QUERY_LOG."""
    texts = ["salted herring traders", "old maps of the silver ore mine", "zyzzyva"]
    rows = [
        {"query_id": f"log{number}", "source_id": None, "query_type": "log", "text": text, "sample": 0}
        for number, text in enumerate(texts)
    ]
    return write_table(run, QUERY_LOG, rows, files=1)
