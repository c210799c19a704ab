"""A complete workdir without a run: tables written by the real protocol, records and curves with invented numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from cluster.schemas import CANDIDATES, LISTS, PASSAGES, QUERIES, RECORDS, SCORES, TableSchema
from cluster.tables.commit import Commit, publish, put_rejects, put_rows
from cluster.tables.plan import Plan, Shard
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from launcher.environment import versions
from launcher.recipe_file import load_recipe

NASTY = '<script>alert("query")</script> & <b>bold</b> {{ 7 * 7 }} {% if %}'


def commit_table(
    storage: Storage, schema: TableSchema, units: int, drops: dict[str, int], *, rejects: int = 0, shards: int = 1
) -> None:
    """Writes a table of `shards` equal shards, all committed."""
    path = schema.path.format(name="bm25")
    plan = Plan.new(schema, [Shard(f"{number:05d}", units) for number in range(shards)], {"made": "by hand"})
    storage.put(f"{path}/plan.json", plan.to_bytes())
    for shard in plan.shards:
        rows = units - sum(drops.values()) - rejects
        table = pa.table({field.name: pa.nulls(rows, field.type) for field in schema.schema}, schema=schema.schema)
        rejected = [{"row": str(number), "error": "invented", "units": 1} for number in range(rejects)]
        commit = Commit(
            shard=shard.name,
            files=put_rows(storage, path, shard.name, table),
            rows=rows,
            units=units,
            drops=drops,
            rejects=rejects,
            tokens=units * 10,
            seconds=2.0,
            worker="w",
            node="n",
            reject_files=put_rejects(storage, path, shard.name, rejected),
        )
        publish(storage, path, plan.id, commit)
    assert Table.open(storage, path).complete


def example(query: str, base: float, student: float) -> dict:
    passage = {"passage_id": f"id {NASTY}", "text": f"text {NASTY}", "score": 0.5, "grade": 1}
    return {"query_id": "q", "text": query, "base": base, "student": student,
            "base_passages": [passage], "student_passages": [passage]}  # fmt: skip


def complete_workdir(folder: Path) -> Storage:
    """Writes all files of a run with two hundred records."""
    storage = Storage(str(folder))
    storage.put("recipe.yaml", load_recipe("pydocs", [f"name={NASTY!r}"]).to_yaml().encode())
    storage.put("versions.json", json.dumps(versions()).encode())
    commit_table(storage, RECORDS, 100, {}, shards=2)
    commit_table(storage, PASSAGES, 200, {"duplicate": 20, "too short": 5})
    commit_table(storage, QUERIES, 500, {f"nothing to extract {NASTY}": 40})
    commit_table(storage, CANDIDATES, 460, {"source not found": 60})
    commit_table(storage, SCORES, 400, {}, rejects=3)
    commit_table(storage, LISTS, 397, {"source not first": 97})
    steps = [{"step": n, "loss": 2.0 / n, "kl": 1.5 / n, "repeats": 1.5, "queries_per_s": 8.0} for n in range(1, 11)]
    dev = [{"step": 5, "dev_ndcg@10": 0.55, "dev_loss": 1.0}, {"step": 10, "dev_ndcg@10": 0.61, "dev_loss": 0.8}]
    lines = "".join(json.dumps(line) + "\n" for line in steps + dev)
    storage.put("training/metrics.jsonl", (lines + '{"step": 11, "lo').encode())
    training = {"model": f"{folder}/model", "steps": 10, "best_step": 10, "seconds": 12.5}
    storage.put("training/record.json", json.dumps(training).encode())
    record = {
        "queries": 4,
        "passages": 175,
        "base": {"ndcg@10": 0.5, "recall@100": 0.9, "mrr@10": 0.45},
        "student": {"ndcg@10": 0.56, "recall@100": 0.92, "mrr@10": 0.5},
        "difference": {"mean": 0.06, "low": 0.02, "high": 0.1, "p": 0.003, "wins": 2, "losses": 1, "ties": 1},
        "recommended": "student",
        "verdict": "The student is better than its base: +0.0600. Use the student.",
    }
    storage.put("evaluation/record.json", json.dumps(record).encode())
    rows = [(NASTY, 0.0, 1.0), ("second", 0.2, 0.4), ("third", 0.5, 0.5), ("fourth", 1.0, 0.3)]
    queries = [{"query_id": f"q{n}", "text": t, "base": b, "student": s} for n, (t, b, s) in enumerate(rows)]
    storage.put("evaluation/per_query.jsonl", "".join(json.dumps(query) + "\n" for query in queries).encode())
    examples = {"wins": [example(*rows[0]), example(*rows[1])], "losses": [example(*rows[3])]}
    storage.put("evaluation/examples.json", json.dumps(examples).encode())
    return storage
