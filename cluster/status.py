"""Where a run stands, from storage alone: works with no cluster alive."""

from __future__ import annotations

from collections import Counter
from typing import Any

from cluster.schemas import STAGES, stage_of
from cluster.storage import Storage
from cluster.tables import Table


def status(storage: Storage) -> list[dict[str, Any]]:
    """One record per planned table, in the order of the stages.

    Keys: stage, table, unit, shards, shards_done, units, units_done, rows, drops (by reason), rejects, tokens, seconds
    (of work, summed over workers), rows_per_s (of one worker), stats.
    """
    found = [path.removesuffix("/plan.json") for path in _plans(storage)]
    order = list(STAGES)
    found.sort(key=lambda path: order.index(stage_of(path)) if stage_of(path) in order else len(order))
    return [record for path in found if (record := _table_status(storage, path))]


def _plans(storage: Storage) -> list[str]:
    names = [folder for folders in STAGES.values() for folder in folders]
    known = ["records", "passages", "queries", "query_log", "candidates", "lists"]
    plans = [f"{name}/plan.json" for name in names if name in known and storage.exists(f"{name}/plan.json")]
    for folder in ("embeddings", "scores"):
        plans += [path for path in storage.list(folder) if path.endswith("/plan.json")]
    return plans


def _table_status(storage: Storage, path: str) -> dict[str, Any] | None:
    try:
        table = Table.open(storage, path)
    except KeyError:
        return None
    drops: Counter[str] = Counter()
    stats: Counter[str] = Counter()
    commits = table.commits()
    for commit in commits:
        drops.update(commit.drops)
        stats.update(commit.stats)
    rows, seconds = sum(c.rows for c in commits), sum(c.seconds for c in commits)
    return {
        "stage": stage_of(path),
        "table": path,
        "unit": table.plan.unit,
        "shards": len(table.plan.shards),
        "shards_done": len(commits),
        "units": table.plan.units,
        "units_done": sum(c.units for c in commits),
        "rows": rows,
        "drops": dict(drops),
        "rejects": sum(c.rejects for c in commits),
        "tokens": sum(c.tokens for c in commits),
        "seconds": round(seconds, 3),
        "rows_per_s": round(rows / seconds, 1) if seconds else None,
        "stats": dict(stats),
    }
