"""Queries that later steps dropped: near-duplicates, and those with low grades. Their texts are all still there.

Both steps read a table and write the rows that stay, so what is missing in the second was dropped.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.schemas import APPROVED, DISTINCT, GRADES
from cluster.tables.commit import Commit, drops_of, read_checked
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from generation.distinct import NEAR_DUPLICATE
from generation.judging.verdict import reason_of


class LaterDrops:
    """Why queries were dropped after they were written, as far as that is decided.

    Args:
        storage: of the run.
        is_judged: whether its recipe has a judge; tables of one that was taken out may still be there.

    `drops` are the counts by reason.
    """

    def __init__(self, storage: Storage, is_judged: bool = True) -> None:
        self._storage = storage
        self._distinct = _Step(storage, DISTINCT.path)
        self._grades = _Step(storage, GRADES.path if is_judged else None)
        self._verdict = _Step(storage, APPROVED.path if is_judged else None)
        self.drops = self._distinct.drops + self._verdict.drops

    def drops_of(self, path: str) -> Counter[str]:
        """By reason, in the shards that read this file of queries."""
        graded = [file for source in self._judged_files(path) for file in self._grades.files(source)]
        return sum((self._verdict.drops_of(file) for file in graded), self._distinct.drops_of(path))

    def reasons(self, path: str, ids: Iterable[str]) -> dict[str, str]:
        """The reason of each of these queries of a file that was dropped."""
        ids = set(ids)
        found = dict.fromkeys(self._distinct.missing(path, ids), NEAR_DUPLICATE)
        for source in self._judged_files(path):
            for file in self._grades.files(source):
                found |= {query: reason for query, reason in self._low_grades(file) if query in ids}
        return found

    def _judged_files(self, path: str) -> list[str]:
        """What the judge read of this file of queries: itself, or what the search for near-duplicates left of it."""
        return self._distinct.files(path) or [path]

    def _low_grades(self, file: str) -> Iterator[tuple[str, str]]:
        if not self._verdict.drops_of(file):
            return
        rows = read_rows(self._storage, file, ["query_id", "grades"]).to_pylist()
        missing = self._verdict.missing(file, {row["query_id"] for row in rows})
        weights = self._verdict.fingerprint["judge"]["weights"]
        for row in rows:
            if row["query_id"] in missing:
                yield row["query_id"], reason_of(dict(row["grades"]), weights)


class _Step:
    """A table that keeps some rows of the tables that it reads; empty without a path, or before it is planned."""

    def __init__(self, storage: Storage, path: str | None) -> None:
        self._storage = storage
        self._commits: dict[str, list[Commit | None]] = defaultdict(list)  # by data file that a shard reads
        self._kept: dict[str, set[str]] = {}  # ids by data file
        self.drops: Counter[str] = Counter()
        self.fingerprint: dict[str, Any] = {}
        if path is None:
            return
        with suppress(KeyError):
            table = Table.open(storage, path)
            self.fingerprint = table.plan.fingerprint
            for shard in table.plan.shards:
                commit = table.committed().get(shard.name)
                self.drops += Counter(commit.drops if commit else {})
                for piece in shard.slices:
                    self._commits[piece.file].append(commit)

    def files(self, path: str) -> list[str]:
        """Data files of the shards that read this one."""
        return list(dict.fromkeys(file for commit in self._commits.get(path, []) if commit for file, _ in commit.files))

    def drops_of(self, path: str) -> Counter[str]:
        """By reason, in the shards that read this file."""
        return drops_of(commit for commit in self._commits.get(path, []) if commit)

    def missing(self, path: str, ids: set[str]) -> set[str]:
        """Those ids of a file that were dropped; none before the whole file was looked at."""
        if not all(self._commits.get(path, [])) or not self.drops_of(path):
            return set()
        return ids.difference(*(self._ids(file) for file in self.files(path)))

    def _ids(self, file: str) -> set[str]:
        if file not in self._kept:
            self._kept[file] = set(read_rows(self._storage, file, ["query_id"])["query_id"].to_pylist())
        return self._kept[file]


def read_rows(storage: Storage, path: str, columns: list[str]) -> pa.Table:
    """Rows of a data file. To look at a damaged file must not change the run, so its commit is not withdrawn here."""
    return pq.read_table(pa.BufferReader(read_checked(storage, path)), columns=columns)
