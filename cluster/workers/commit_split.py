"""The commit of a shard that was cut to find the rows that cannot be done: one record for all its parts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

from cluster.schemas import stage_of
from cluster.tables.commit import Commit, publish, put_rejects
from cluster.tables.shard_reader import ShardReader
from cluster.tables.table import Table
from cluster.workers.tasks import Part, Split


def commit_split(table: Table, split: Split) -> Commit:
    """Writes the rejects of a cut shard and commits it; returns the record that counts.

    Raises:
        RunError: its parts do not account for all units.
    """
    shard, storage = split.shard, table.storage
    if committed := table.read_commits([shard.name]):  # by another driver, which may have removed our files
        return committed[0]
    reader = ShardReader(storage)
    commits = [part.commit for part in split.parts if part.commit]
    rejects: list[dict[str, Any]] = []
    for part in split.parts:
        if part.commit is None:
            rejects.append(_reject(table, split, part, reader))
            continue
        for path in part.commit.reject_files:
            rejects += json.loads(storage.get(path))
    drops: Counter[str] = Counter()
    stats: Counter[str] = Counter()
    for commit in commits:
        drops.update(commit.drops)
        stats.update(commit.stats)
    merged = Commit(
        shard=shard.name,
        files=tuple(file for commit in commits for file in commit.files),
        rows=sum(commit.rows for commit in commits),
        units=shard.units,
        drops=dict(drops),
        rejects=sum(reject["units"] for reject in rejects),
        tokens=sum(commit.tokens for commit in commits),
        seconds=round(sum(commit.seconds for commit in commits), 3),
        worker=commits[-1].worker if commits else "-",
        node=commits[-1].node if commits else "-",
        stats=dict(stats),
        attempts=max(part.attempts for part in split.parts),
        dropped_files=tuple(file for commit in commits for file in commit.dropped_files),
        cpu_s=round(sum(commit.cpu_s for commit in commits), 3),
        held_s=round(sum(commit.held_s for commit in commits), 3),
    )
    merged.check(f"{table.path}, shard {shard.name}", shard.units)
    merged = replace(merged, reject_files=put_rejects(storage, table.path, shard.name, rejects))
    return publish(storage, table.path, table.plan.id, merged)


def _reject(table: Table, split: Split, part: Part, reader: ShardReader) -> dict[str, Any]:
    """The reject of a row that cannot be done. It names the row by its id, or by its number if it has no id."""
    shard = split.shard
    rows = reader.rows(shard, part.start, part.stop)
    row = str(rows.column(0)[0].as_py()) if rows is not None else f"{shard.name}:{part.start}"
    return {
        "stage": stage_of(table.path), "shard": shard.name, "row": row, "error": part.error,
        "units": shard.units_of(part.start, part.stop), "attempts": part.attempts,
    }  # fmt: skip
