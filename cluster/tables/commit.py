"""The commit of a shard: its data file, its rejects, and the record that names them.

The top of `cluster/tables/table.py` explains the protocol that these functions follow.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, TypeAdapter, ValidationError

from cluster.errors import DamagedError, RunError
from cluster.tables.storage import Storage

ROW_GROUP_ROWS = 8192


@dataclass(frozen=True)
class Commit:
    """The commit record of a shard. Its rows, drops and rejects together are all planned units.

    A record with a field of another name is none: a bad disk may have changed the name of a field that has a default,
    and files that no record names are removed.

    Attributes:
        shard: name of the shard.
        files: data files, each as (path in the workdir, rows).
        rows: rows in all files.
        units: planned units.
        drops: units left out on purpose, by reason.
        rejects: units that could not be done.
        tokens: tokens that a model read or wrote for these rows.
        seconds: time in the worker's `process`.
        worker, node: who did the shard.
        stats: counters that add up over shards.
        reject_files: paths of the files that describe the rejects.
        attempts: how many times the shard was tried.
        dropped_files: paths of the files with some of the drops, for people to look at.
        cpu_s: processor time that the worker and its children used since its last commit.
        held_s: cores that the worker held, times the seconds since its last commit.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    shard: str
    files: tuple[tuple[str, int], ...]
    rows: int
    units: int
    drops: dict[str, int]
    rejects: int
    tokens: int
    seconds: float
    worker: str
    node: str
    stats: dict[str, int] = field(default_factory=dict)
    reject_files: tuple[str, ...] = ()
    attempts: int = 1
    dropped_files: tuple[str, ...] = ()
    cpu_s: float = 0.0
    held_s: float = 0.0

    @property
    def named(self) -> set[str]:
        """Paths of all files that the record names."""
        return {path for path, _ in self.files} | set(self.reject_files) | set(self.dropped_files)

    @property
    def accounted(self) -> int:
        """Units that ended as rows, drops or rejects."""
        return self.rows + sum(self.drops.values()) + self.rejects

    def check(self, place: str, units: int) -> None:
        """Refuses a record that does not account for exactly `units` units.

        Raises:
            RunError: the numbers differ; the message begins with `place`.
        """
        if self.accounted != units:
            raise RunError(
                f"{place}: {units} units planned, but {self.rows} rows + {sum(self.drops.values())} drops + "
                f"{self.rejects} rejects came out"
            )


COMMIT = TypeAdapter(Commit)


def drops_of(commits: Iterable[Commit]) -> Counter[str]:
    """How many units some shards have left out on purpose, by reason."""
    return sum((Counter(commit.drops) for commit in commits), Counter[str]())


def commit_path(table: str, shard: str, plan: str) -> str:
    """The path of a shard's commit record; `plan` is the plan's id."""
    return f"{table}/commits/{shard}.{plan}.json"


def put_rows(storage: Storage, table: str, shard: str, rows: pa.Table) -> tuple[tuple[str, int], ...]:
    """Writes rows to a data file named after its content; returns ((path, rows),), or () if there are no rows."""
    if rows.num_rows == 0:
        return ()
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    data = sink.getvalue().to_pybytes()
    path = f"{table}/data/{shard}.{hashlib.sha256(data).hexdigest()}.parquet"
    storage.put(path, data)
    return ((path, rows.num_rows),)


def put_rejects(storage: Storage, table: str, shard: str, records: list[dict[str, Any]]) -> tuple[str, ...]:
    """Writes the rejects of a shard to a file; returns (path,), or () if there are no rejects."""
    return put_records(storage, f"{table}/rejects", shard, records)


def put_records(storage: Storage, folder: str, shard: str, records: list[dict[str, Any]]) -> tuple[str, ...]:
    """Writes records to a JSON file named after its content; returns (path,), or () if there are none."""
    if not records:
        return ()
    data = json.dumps(records).encode()
    path = f"{folder}/{shard}.{hashlib.sha256(data).hexdigest()}.json"
    storage.put(path, data)
    return (path,)


def publish(storage: Storage, table: str, plan: str, commit: Commit) -> Commit:
    """Creates the commit record of a shard whose files are written; returns the record that counts.

    If another worker has committed the shard first, that worker's record counts, and the files of this one are removed.
    """
    path = commit_path(table, commit.shard, plan)
    while not storage.create(path, COMMIT.dump_json(commit)):
        try:
            winner = COMMIT.validate_json(storage.get(path))
        except KeyError:  # it was withdrawn meanwhile
            continue
        except ValidationError:  # a power cut left it half-written
            keep_withdrawn(storage, table, commit.shard, plan, b"")
            storage.remove(path)
            continue
        for name in sorted(commit.named - winner.named):
            storage.remove(name)
        return winner
    return commit


def keep_withdrawn(storage: Storage, table: str, shard: str, plan: str, record: bytes) -> None:
    """Stores a withdrawn record. If one is stored already, that one stays: other tables were made from its rows."""
    storage.create(f"{table}/withdrawn/{shard}.{plan}.json", record)


def read_checked(storage: Storage, path: str) -> pa.Buffer:
    """The bytes of a data file, checked against the sha256 in its name.

    Raises:
        DamagedError: the file is missing, or its content is not the committed one.
    """
    expected = path.rsplit(".", 2)[1]
    try:
        data = storage.buffer(path)
    except KeyError:
        raise DamagedError(path, "the file is missing") from None
    actual = hashlib.sha256(data).hexdigest()
    if actual != expected:
        raise DamagedError(path, f"{data.size} bytes with sha256 {actual[:12]}…, committed was {expected[:12]}…")
    return data
