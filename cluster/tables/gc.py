"""Removes files that no commit record names: what workers left that died, or lost a race, before their commit."""

from __future__ import annotations

from pathlib import Path

from cluster.tables.commit import commit_path
from cluster.tables.storage import Storage
from cluster.tables.table import Table, planned


def collect(table: Table) -> int:
    """Removes what no commit record of an ended table names; returns how many files.

    Safe while workers of a dead driver still write: in a complete table every create of a commit record fails, so what
    is not named now will never be. (Should a record be withdrawn later, and name such a file: that reads as damaged.)
    An unfinished table is left alone: a file without a record may be about to get one.
    """
    if not table.sealed():
        return 0
    named = {path for path, _ in table.files()}
    named.update(path for commit in table.commits() for path in commit.reject_files)
    named.update(commit_path(table.path, shard.name, table.plan.id) for shard in table.plan.shards)
    removed = 0
    for folder in ("data", "rejects", "commits", "withdrawn"):
        for path in table.storage.list(f"{table.path}/{folder}"):
            if path not in named:
                table.storage.remove(path)
                removed += 1
    return removed + _unfinished_puts(table.storage, table.path)


def collect_all(storage: Storage) -> dict[str, int]:
    """Removes leftovers of every complete table below a workdir; returns how many files by table."""
    removed = {}
    for path in planned(storage):
        try:
            table = Table.open(storage, path)
        except KeyError:
            continue  # a stage in one piece has a plan without shards
        removed[table.path] = collect(table)
    return {path: count for path, count in removed.items() if count}


def _unfinished_puts(storage: Storage, path: str) -> int:
    """A local put writes `name#number` and renames it; a process that was killed in between leaves that file."""
    if storage.local_path is None:
        return 0
    left = [file for file in Path(storage.local_path, path).rglob("*#*") if file.is_file()]
    for file in left:
        file.unlink(missing_ok=True)
    return len(left)
