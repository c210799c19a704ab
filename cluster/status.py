"""Where a run stands, from storage alone: works with no cluster alive."""

from __future__ import annotations

from collections import Counter
from typing import Any

from cluster.schemas import STAGES, stage_of
from cluster.storage import Storage
from cluster.tables import Table


def status(storage: Storage) -> list[dict[str, Any]]:
    """One record per planned table, in the order in which they are made.

    Keys: stage, table, unit, shards, shards_done, units, units_done, rows, drops (by reason), rejects, tokens, seconds
    (of work, summed over workers), rows_per_s (of one worker), stats.
    """
    found = planned(storage)
    order = [folder for folders in STAGES.values() for folder in folders]
    found.sort(key=lambda path: order.index(path.split("/")[0]) if path.split("/")[0] in order else len(order))
    return [record for path in found if (record := _table_status(storage, path))]


def planned(storage: Storage) -> list[str]:
    """Folders with a plan, at most three deep (`embeddings/minilm/passages`); the inside of a table is not listed."""
    found: list[str] = []
    level = storage.folders()
    for _ in range(3):
        tables = {folder for folder in level if storage.exists(f"{folder}/plan.json")}
        found += sorted(tables)
        level = [inner for folder in level if folder not in tables for inner in storage.folders(folder)]
    return found


def _table_status(storage: Storage, path: str) -> dict[str, Any] | None:
    try:
        table = Table.open(storage, path)
    except KeyError:  # removed meanwhile, or a stage in one piece, whose plan has no shards
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
