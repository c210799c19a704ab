"""Removes files that no commit record names: workers left them that died or lost a race before their commit."""

from __future__ import annotations

from pathlib import Path

from cluster.tables.commit import commit_path
from cluster.tables.removal import is_removable
from cluster.tables.storage import Storage
from cluster.tables.table import Table, planned_tables


def collect(table: Table) -> int:
    """Removes the files of a complete table that no commit record names; returns their number.

    This is safe while workers of a dead driver still write: every shard has its commit record, so no further one can
    be created, and a file that no record names now will never be named. (If a record is withdrawn later and its
    successor names a removed file, the file reads as damaged.) In an unfinished table nothing is removed, because a
    file without a record may still get one.
    """
    if not table.sealed():
        return 0
    named = {path for commit in table.all_commits() for path in commit.named}
    named.update(commit_path(table.path, shard.name, table.plan.id) for shard in table.plan.shards)
    removed = 0
    for folder in ("data", "rejects", "dropped", "commits", "withdrawn"):
        for path in table.storage.list(f"{table.path}/{folder}"):
            if path not in named and is_removable(path):
                table.storage.remove(path)
                removed += 1
    return removed + _unfinished_puts(table.storage, table.path)


def collect_all(storage: Storage) -> dict[str, int]:
    """Removes the leftover files of every complete table of a workdir; returns their number by table."""
    removed = {}
    for path in planned_tables(storage):
        try:
            table = Table.open(storage, path)
        except KeyError:
            continue  # the plan of a one-process stage has no shards
        removed[table.path] = collect(table)
    return {path: count for path, count in removed.items() if count}


def _unfinished_puts(storage: Storage, path: str) -> int:
    """Removes the files of unfinished puts; returns their number.

    On a local disk a put writes `name#number` and then renames it. A process killed in between leaves that file.
    """
    if storage.local_path is None:
        return 0
    files = [file for file in Path(storage.local_path, path).rglob("*#*") if file.is_file()]
    unfinished = [file for file in files if is_removable(file.relative_to(storage.local_path).as_posix())]
    for file in unfinished:
        file.unlink(missing_ok=True)
    return len(unfinished)
