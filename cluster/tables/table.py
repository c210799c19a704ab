"""Sharded tables: the protocol by which every planned unit ends exactly once in a table, even if processes die.

A table is a folder of the workdir:

    plan.json                        the shards, the fingerprint of all that determines the output, a random id
    data/<shard>.<sha256>.parquet    rows; the name holds a hash of the content, so every reader can check it
    rejects/<shard>.<sha256>.json    rows that could not be done, with error and attempts
    dropped/<shard>.<sha256>.json    a few units of each reason that were left out, for people to look at
    commits/<shard>.<plan id>.json   the commit record: files, rows, drops, rejects, tokens, seconds, worker, node
    withdrawn/<shard>.<plan id>.json the record of a damaged shard, until the shard is done again
    complete.<plan id>.json          all commit records in one object, a shortcut that is written when none is missing

A worker puts data, then rejects and drops, then creates the commit record (atomic create-if-absent). Readers follow
commit records; they never list data/. A process may die at any point. Why each point is safe:

- before or inside the put of data: a put is atomic, so there is either no file, or a whole one that no record names;
- between data and commit: the shard counts as not done and is done again. The same rows give the same file name, so
  the file is replaced by an equal one. Other rows (of a sampling worker) give another name, and no record will ever
  name the first file;
- inside the create: the store creates the whole record or none. If two workers finish the same shard, the second
  one's create returns False. It reads the winner's record, and removes its own file unless the winner names the same
  one. This also holds when the first create succeeded and only the answer was lost;
- after the create: the shard is done. A driver that did not learn of it finds the record when it starts again;
- before or inside complete.json: it is only a shortcut for records that all exist. Without it, readers read the
  records one by one;
- a power cut that keeps the record and loses data: the file's content no longer matches its name, so reading it raises
  DamagedError. Its record is then withdrawn and the shard is done again. A record or shortcut that cannot be parsed
  counts as absent;
- inside a withdrawal, or before the shard is done again: the record is first copied to withdrawn/, then the shortcut
  is removed, then the record. Whoever completes the table compares the withdrawn records with the new ones. If the
  rows differ, the table gets a new revision, so that nothing made from the old rows is combined with the new ones.
  Only then are the withdrawn records removed. If a death makes the comparison happen twice, the revision grows twice,
  which is harmless;
- inside the removal of a table: the plan is removed first, and files without a plan count for nothing.

A table that is planned anew gets a new plan id. Names of commit records contain the id, so a worker of the old plan
that is still alive cannot commit into the new one. Files that no record names are removed when the table is complete:
from then on no create can succeed, so no record can ever name them (`cluster/tables/gc.py`). If a shard was cut into
parts to find a bad row, the files of its parts are also named by no record until the driver commits the shard.
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
from cluster.overwrite import name_of
from cluster.tables.commit import COMMIT, Commit, commit_path, keep_withdrawn, read_checked
from cluster.tables.plan import Plan
from cluster.tables.storage import Storage

_COMMITS = TypeAdapter(list[Commit])


class Table:
    """A table of a run. `Table.open` reads the plan; commit records are read when they are first needed.

    A table is complete when every planned shard is committed. It is sealed when, after that, its final accounting was
    done and one object with all commit records was written.
    """

    def __init__(self, storage: Storage, path: str, plan: Plan) -> None:
        self.storage = storage
        self.path = path
        self.plan = plan
        self._commits: dict[str, Commit] | None = None
        self._sealed = False

    @classmethod
    def open(cls, storage: Storage, path: str) -> Table:
        """A planned table, complete or not.

        Raises:
            KeyError: the table has no plan.
            RunError: the plan cannot be read.
        """
        data = storage.get(f"{path}/plan.json")
        try:
            return cls(storage, path, Plan.from_bytes(data))
        except ValueError as error:
            raise RunError(
                f"{storage.url}/{path}/plan.json cannot be read ({error}). Do the stage and all after it again with "
                f"--overwrite {name_of(path)}."
            ) from error

    @property
    def fingerprint(self) -> str:
        """Identity of the table's content. It changes when the table is planned anew or a shard gets other rows."""
        return f"{self.plan.id}.{self.plan.revision}"

    @property
    def complete(self) -> bool:
        """Whether every planned shard is committed."""
        return len(self.committed()) == len(self.plan.shards)

    @property
    def num_rows(self) -> int:
        """The number of committed rows."""
        return sum(commit.rows for commit in self.committed().values())

    def committed(self) -> dict[str, Commit]:
        """Commit records by shard name. They are read once; those of a sealed table come from one object."""
        if self._commits is None and not self.sealed():
            self._commits = {commit.shard: commit for commit in self.read_commits(self.committed_names())}
        assert self._commits is not None
        return self._commits

    def commits(self) -> list[Commit]:
        """Commit records in the order of the plan."""
        committed = self.committed()
        return [committed[shard.name] for shard in self.plan.shards if shard.name in committed]

    def rejects(self) -> list[dict[str, Any]]:
        """Rows that could not be done, each a record with the keys stage, shard, row, error, units, attempts."""
        files = [path for commit in self.commits() for path in commit.reject_files]
        return [record for path in files for record in json.loads(self.storage.get(path))]

    def all_commits(self) -> list[Commit]:
        """Commit records of all shards, in the order of the plan.

        Raises:
            RunError: some shard is not done, so row numbers would be wrong.
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
            DamagedError: the file is not the one that was committed; its commit record is withdrawn.
        """
        try:
            data = read_checked(self.storage, path)
        except DamagedError:
            self.withdraw(path)
            raise
        return pq.read_table(pa.BufferReader(data), columns=columns)

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Rows of one data file after the other, in the order of the plan.

        Raises:
            RunError, DamagedError: as `files` and `read_file` do.
        """
        for path, _ in self.files():
            yield self.read_file(path, columns)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """All rows of the table, in the order of the plan."""
        empty = self.plan.schema.empty_table()
        return pa.concat_tables([empty.select(columns) if columns else empty, *self.batches(columns)])

    def add_commit(self, commit: Commit) -> None:
        """Adds a commit record that a worker of this driver reported, without reading storage."""
        self.committed()[commit.shard] = commit

    def seal(self) -> None:
        """Ends a complete table: compares withdrawn records with the new ones, and writes all records in one object.

        Raises:
            RunError: another run has planned the table anew meanwhile.
        """
        ending = f".{self.plan.id}.json"
        withdrawn = [path for path in self.storage.list(f"{self.path}/withdrawn") if path.endswith(ending)]
        try:
            plan = Table.open(self.storage, self.path).plan  # another driver may have given it a new revision
        except KeyError:
            plan = None
        if plan is None or plan.id != self.plan.id:
            raise RunError(f"{self.path} was planned anew by another run while this one worked on it")
        self.plan = plan
        if any(self._differs(path) for path in withdrawn):
            self.plan = replace(plan, revision=plan.revision + 1)
            self.storage.put(f"{self.path}/plan.json", self.plan.to_bytes())
        for path in withdrawn:
            self.storage.remove(path)
        self.storage.put(self._complete, _COMMITS.dump_json(self.commits()))
        self._sealed = True

    def _differs(self, withdrawn: str) -> bool:
        """Whether a withdrawn record names other files than its successor; True also if it cannot be parsed."""
        try:
            before = COMMIT.validate_json(self.storage.get(withdrawn))
        except KeyError:  # another driver has compared and removed it
            return False
        except ValidationError:
            return True
        return before.files != self.committed()[before.shard].files

    def withdraw(self, file: str) -> None:
        """Withdraws the commit of the shard that wrote `file`, so that the shard is done again.

        If the shard's record names other files, another run has done it again already, and nothing is withdrawn.
        """
        shard = file.rsplit("/", 1)[1].split(".", maxsplit=1)[0]
        self._commits, self._sealed = None, False  # what is known may be older than the storage
        commit = self.committed().get(shard)
        if commit and file not in dict(commit.files):
            return
        keep_withdrawn(self.storage, self.path, shard, self.plan.id, COMMIT.dump_json(commit) if commit else b"")
        self.storage.remove(self._complete)
        self.storage.remove(commit_path(self.path, shard, self.plan.id))
        self._commits, self._sealed = None, False

    def sealed(self) -> bool:
        """Whether one object holds all commit records; if so, they have been read from it."""
        if not self._sealed:
            with contextlib.suppress(KeyError, ValidationError):
                records = _COMMITS.validate_json(self.storage.get(self._complete))
                self._commits = {commit.shard: commit for commit in records}
                self._sealed = True
        return self._sealed

    @property
    def _complete(self) -> str:
        return f"{self.path}/complete.{self.plan.id}.json"

    def committed_names(self) -> set[str]:
        """Names of the shards that have a commit record. This lists the records and reads none."""
        ending = f".{self.plan.id}.json"
        paths = self.storage.list(f"{self.path}/commits")
        return {path.rsplit("/", 1)[1].removesuffix(ending) for path in paths if path.endswith(ending)}

    def read_commits(self, shards: Iterable[str]) -> list[Commit]:
        """Commit records of some shards, in any order; a record that is absent or cannot be parsed is left out."""
        paths = [commit_path(self.path, shard, self.plan.id) for shard in shards]
        with ThreadPoolExecutor(16) as pool:
            return [commit for commit in pool.map(self._read_commit, paths) if commit]

    def _read_commit(self, path: str) -> Commit | None:
        try:
            return COMMIT.validate_json(self.storage.get(path))
        except (KeyError, ValidationError):
            return None


def discard(storage: Storage, folder: str) -> None:
    """Removes a table, or all tables in a folder. Plans are removed first: files without a plan count for nothing."""
    for path in storage.list(folder):
        if path.endswith("/plan.json"):
            storage.remove(path)
    storage.delete(folder)


def planned_tables(storage: Storage) -> list[str]:
    """Folders with a plan, at most three levels deep (`embeddings/minilm/passages`); tables are not searched inside."""
    planned: list[str] = []
    level = storage.folders()
    for _ in range(3):
        tables = {folder for folder in level if storage.exists(f"{folder}/plan.json")}
        planned += sorted(tables)
        level = [inner for folder in level if folder not in tables for inner in storage.folders(folder)]
    return planned
