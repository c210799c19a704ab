"""Sharded tables: the protocol that makes every planned unit end exactly once in a table, whoever dies when.

A table is a folder of the workdir:

    plan.json                        the shards, the fingerprint of all that determines the output, a random id
    data/<shard>.<sha256>.parquet    rows; named after the content, so that whoever reads the file can check it
    rejects/<shard>.<sha256>.json    rows that could not be done, with error and attempts
    commits/<shard>.<plan id>.json   the commit record: files, rows, drops, rejects, tokens, seconds, who did it
    withdrawn/<shard>.<plan id>.json the record of a damaged shard, until it is done again
    complete.<plan id>.json          all commit records in one object, a shortcut written once none is missing

A worker puts data, then rejects, then creates the commit record (atomic create-if-absent). Readers follow commit
records, never a listing of data/. Why each point of death is safe:

- before or inside the put of data: puts are atomic, so there is no file, or a whole one that no record names;
- between data and commit: the shard counts as not done and is done again. The same rows give the same name, so the
  file is simply replaced by itself; other rows (sampling) give another name, and no record ever names the first file;
- inside the create: the store makes the record whole or not at all. A second finisher gets False, reads the winner's
  record, and removes its own file unless the winner names the same one. That holds too when the first create
  succeeded and only its answer was lost;
- after the create: the shard is done; a driver that did not hear of it finds the record when it starts again;
- before or inside complete.json: it is only a shortcut for records that all exist; without it they are read one by one;
- a power cut that keeps the record and loses data: the file no longer matches the name, reading it raises DamagedError,
  its record is withdrawn, and the shard is done again. A record or shortcut that cannot be read counts as none;
- inside a withdrawal, or before its shard is done again: the record is first kept aside, then the shortcut goes, then
  the record. Whoever completes the table compares, and gives it a new revision if other rows came out, so that nothing
  that was made from the old rows is paired with the new ones. Kept records go after that; to compare them twice is
  one revision too many, and harmless;
- inside the removal of a table: its plan goes first, and what has no plan counts for nothing.

A table that is planned anew gets a new plan id. Commit records carry it in their name, so a worker of the old plan
that is still alive cannot slip its result into the new one. Files that no record names are removed when the table is
complete: from then on no create can succeed, so they can never be named (`cluster/tables/gc.py`). The parts of a shard
that was cut are such files until the driver commits the shard.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from cluster.errors import DamagedError, RunError
from cluster.schemas import stage_of
from cluster.tables.commit import COMMIT, Commit, commit_path, keep_withdrawn, read_checked
from cluster.tables.plan import Plan
from cluster.tables.storage import Storage

_COMMITS = TypeAdapter(list[Commit])


class Table:
    """A table of a run. Opening reads the plan; commit records are read when first needed."""

    def __init__(self, storage: Storage, path: str, plan: Plan) -> None:
        self.storage = storage
        self.path = path
        self.plan = plan
        self._commits: dict[str, Commit] | None = None
        self._sealed = False

    @classmethod
    def open(cls, storage: Storage, path: str) -> Table:
        """Opens a planned table, complete or not.

        Raises:
            KeyError: no plan there.
            RunError: a plan that cannot be read.
        """
        data = storage.get(f"{path}/plan.json")
        try:
            return cls(storage, path, Plan.from_bytes(data))
        except ValueError as error:
            raise RunError(
                f"{storage.url}/{path}/plan.json cannot be read ({error}). Do the stage and all after it again with "
                f"--overwrite {stage_of(path)}."
            ) from error

    @property
    def fingerprint(self) -> str:
        """Identity of the table's content; changes whenever it is planned anew or redone with other rows."""
        return f"{self.plan.id}.{self.plan.revision}"

    @property
    def complete(self) -> bool:
        """Whether every planned shard is committed."""
        return len(self.committed()) == len(self.plan.shards)

    @property
    def num_rows(self) -> int:
        """Committed rows."""
        return sum(commit.rows for commit in self.committed().values())

    def committed(self) -> dict[str, Commit]:
        """Commit records by shard name; read once, all in one object where the table is complete."""
        if self._commits is None and not self.sealed():
            self._commits = {commit.shard: commit for commit in self.read_commits(self.names())}
        assert self._commits is not None
        return self._commits

    def commits(self) -> list[Commit]:
        """Commit records in the order of the plan."""
        committed = self.committed()
        return [committed[shard.name] for shard in self.plan.shards if shard.name in committed]

    def rejects(self) -> list[dict[str, Any]]:
        """Rows that could not be done: stage, shard, row, error, units, attempts."""
        files = [path for commit in self.commits() for path in commit.reject_files]
        return [record for path in files for record in json.loads(self.storage.get(path))]

    def all_commits(self) -> list[Commit]:
        """Commit records of all shards, in the order of the plan.

        Raises:
            RunError: some shard is not done, so that whoever counts rows would count wrong.
        """
        if not self.complete:
            raise RunError(
                f"{self.storage.url}/{self.path}: {len(self.committed())} of {len(self.plan.shards)} shards are done. "
                "Continue the run that makes it: the same command does the rest."
            )
        return self.commits()

    def files(self) -> list[tuple[str, int]]:
        """Data files (path in the workdir, rows) of a complete table, in the order of the plan."""
        return [file for commit in self.all_commits() for file in commit.files]

    def read_file(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """Rows of one data file.

        Raises:
            DamagedError: the file is not what was committed; its commit record has been withdrawn.
        """
        try:
            data = read_checked(self.storage, path)
        except DamagedError:
            self.withdraw(path)
            raise
        return pq.read_table(pa.BufferReader(data), columns=columns)

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """One data file at a time, in the order of the plan; raises what `files` and `read_file` raise."""
        for path, _ in self.files():
            yield self.read_file(path, columns)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """The whole table in the order of the plan."""
        empty = self.plan.schema.empty_table()
        return pa.concat_tables([empty.select(columns) if columns else empty, *self.batches(columns)])

    def record(self, commit: Commit) -> None:
        """Notes a commit that a worker of this driver reported."""
        self.committed()[commit.shard] = commit

    def seal(self) -> None:
        """Ends a table that is complete: compares what was withdrawn, and writes the shortcut with every record.

        Raises:
            RunError: another run has planned it anew meanwhile.
        """
        ending = f".{self.plan.id}.json"
        kept = [path for path in self.storage.list(f"{self.path}/withdrawn") if path.endswith(ending)]
        try:
            plan = Table.open(self.storage, self.path).plan  # another driver may have given it a new revision
        except KeyError:
            plan = None
        if plan is None or plan.id != self.plan.id:
            raise RunError(f"{self.path} was planned anew by another run while this one worked on it")
        self.plan = plan
        if any(self._differs(path) for path in kept):
            self.plan = replace(plan, revision=plan.revision + 1)
            self.storage.put(f"{self.path}/plan.json", self.plan.to_bytes())
        for path in kept:
            self.storage.remove(path)
        self.storage.put(self._complete, _COMMITS.dump_json(self.commits()))
        self._sealed = True

    def _differs(self, kept: str) -> bool:
        """Whether a withdrawn record names other rows than the one that replaced it; also if nobody can tell."""
        try:
            before = COMMIT.validate_json(self.storage.get(kept))
        except KeyError:  # another driver has compared it
            return False
        except ValidationError:
            return True
        return before.files != self.committed()[before.shard].files

    def withdraw(self, file: str) -> None:
        """Takes back the commit of the shard that wrote `file`, so that the next run does it again."""
        shard = file.rsplit("/", 1)[1].split(".", maxsplit=1)[0]
        known = self.committed().get(shard)
        keep_withdrawn(self.storage, self.path, shard, self.plan.id, COMMIT.dump_json(known) if known else b"")
        self.storage.remove(self._complete)
        self.storage.remove(commit_path(self.path, shard, self.plan.id))
        self._commits, self._sealed = None, False

    def sealed(self) -> bool:
        """Whether one object holds all commit records; they are read from it then."""
        if not self._sealed:
            with contextlib.suppress(KeyError, ValidationError):
                records = _COMMITS.validate_json(self.storage.get(self._complete))
                self._commits = {commit.shard: commit for commit in records}
                self._sealed = True
        return self._sealed

    @property
    def _complete(self) -> str:
        return f"{self.path}/complete.{self.plan.id}.json"

    def names(self) -> set[str]:
        """Names of the shards that have a commit record, by a listing: no record is read."""
        ending = f".{self.plan.id}.json"
        paths = self.storage.list(f"{self.path}/commits")
        return {path.rsplit("/", 1)[1].removesuffix(ending) for path in paths if path.endswith(ending)}

    def read_commits(self, shards: Iterable[str]) -> list[Commit]:
        """Commit records of some shards, in any order; one that is gone or cannot be read counts as none."""
        paths = [commit_path(self.path, shard, self.plan.id) for shard in shards]
        with ThreadPoolExecutor(16) as pool:
            return [commit for commit in pool.map(self._read_commit, paths) if commit]

    def _read_commit(self, path: str) -> Commit | None:
        try:
            return COMMIT.validate_json(self.storage.get(path))
        except (KeyError, ValidationError):
            return None


def discard(storage: Storage, folder: str) -> None:
    """Removes a table, or all tables in a folder: their plans first, without which what is left counts for nothing."""
    for path in storage.list(folder):
        if path.endswith("/plan.json"):
            storage.remove(path)
    storage.delete(folder)


def planned(storage: Storage) -> list[str]:
    """Folders with a plan, at most three deep (`embeddings/minilm/passages`); the inside of a table is not listed."""
    found: list[str] = []
    level = storage.folders()
    for _ in range(3):
        tables = {folder for folder in level if storage.exists(f"{folder}/plan.json")}
        found += sorted(tables)
        level = [inner for folder in level if folder not in tables for inner in storage.folders(folder)]
    return found
