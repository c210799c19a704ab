"""Sharded tables: the protocol that makes every planned unit end exactly once in a table, whoever dies when.

A table is a folder of the workdir:

    plan.json                        the shards, the fingerprint of all that determines the output, a random id
    data/<shard>.<sha256>.parquet    rows; named after the content, so that whoever reads the file can check it
    rejects/<shard>.<sha256>.json    rows that could not be done, with error and attempts
    commits/<shard>.<plan id>.json   the commit record: files, rows, drops, rejects, tokens, seconds, who did it
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
  its record is withdrawn, and the shard is done again.

A table that is planned anew gets a new plan id. Commit records carry it in their name, so a worker of the old plan
that is still alive cannot slip its result into the new one. Files that no record names are removed when the table is
complete: from then on no create can succeed, so they can never be named (`cluster/gc.py`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import DamagedError, InputError
from cluster.schemas import TableSchema
from cluster.storage import STORAGE_ERRORS, Storage, StorageError

ROW_GROUP_ROWS = 8192


@dataclass(frozen=True)
class Slice:
    """Rows `start` to `stop` of a committed data file; `where` names a boolean column that picks among them."""

    file: str
    start: int
    stop: int
    where: str | None = None


@dataclass(frozen=True)
class Shard:
    """A planned piece of work: `rows` input rows that make `rows × units_per_row` units.

    `params` (JSON) describe a shard that is no rows of a table, such as a byte range of an input file.
    """

    name: str
    rows: int
    units_per_row: int = 1
    slices: tuple[Slice, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def units(self) -> int:
        """Units this shard must account for."""
        return self.rows * self.units_per_row


@dataclass(frozen=True)
class Commit:
    """What became of a shard: rows in `files`, `drops` by reason, units in `rejects`; together all planned units."""

    shard: str
    files: tuple[tuple[str, int], ...]  # path in the workdir, rows
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

    @property
    def accounted(self) -> int:
        """Units that ended as rows, drops or rejects."""
        return self.rows + sum(self.drops.values()) + self.rejects

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Commit:
        """Reads what `asdict` wrote."""
        files = tuple((path, rows) for path, rows in record["files"])
        return cls(**{**record, "files": files, "reject_files": tuple(record["reject_files"])})


@dataclass(frozen=True)
class Plan:
    """Content of plan.json. `revision` grows when a damaged shard was redone with other rows."""

    id: str
    fingerprint: dict[str, Any]
    unit: str
    schema: pa.Schema
    shards: tuple[Shard, ...]
    revision: int = 0

    @classmethod
    def new(cls, table: TableSchema, shards: list[Shard], fingerprint: dict[str, Any]) -> Plan:
        """A plan with a fresh id."""
        plain = json.loads(json.dumps(fingerprint))
        return cls(uuid.uuid4().hex[:12], plain, table.unit, table.schema, tuple(shards))

    @property
    def units(self) -> int:
        """Units the whole table must account for."""
        return sum(shard.units for shard in self.shards)

    def to_bytes(self) -> bytes:
        """JSON; shards as arrays, since a plan may hold tens of thousands."""
        shards = [
            [s.name, s.rows, s.units_per_row, [[c.file, c.start, c.stop, c.where] for c in s.slices], s.params]
            for s in self.shards
        ]
        plan = {"id": self.id, "revision": self.revision, "unit": self.unit, "fingerprint": self.fingerprint}
        schema = base64.b64encode(self.schema.serialize()).decode()
        return json.dumps({**plan, "schema": schema, "shards": shards}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Reads what `to_bytes` wrote."""
        record = json.loads(data)
        shards = tuple(
            Shard(name, rows, units, tuple(Slice(*piece) for piece in slices), params)
            for name, rows, units, slices, params in record["shards"]
        )
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(record["schema"])))
        return cls(record["id"], record["fingerprint"], record["unit"], schema, shards, record["revision"])


class Table:
    """A table of a run. Opening reads the plan; commit records are read when first needed."""

    def __init__(self, storage: Storage, path: str, plan: Plan) -> None:
        self.storage = storage
        self.path = path
        self.plan = plan
        self._commits: dict[str, Commit] | None = None

    @classmethod
    def open(cls, storage: Storage, path: str) -> Table:
        """Opens a planned table, complete or not.

        Raises:
            KeyError: no plan there.
        """
        return cls(storage, path, Plan.from_bytes(storage.get(f"{path}/plan.json")))

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
        if self._commits is None:
            records = self._sealed_commits()
            records = self.read_commits(self.names()) if records is None else records
            self._commits = {commit.shard: commit for commit in records}
        return self._commits

    def commits(self) -> list[Commit]:
        """Commit records in the order of the plan."""
        committed = self.committed()
        return [committed[shard.name] for shard in self.plan.shards if shard.name in committed]

    def rejects(self) -> list[dict[str, Any]]:
        """Rows that could not be done: stage, shard, row, error, units, attempts."""
        files = [path for commit in self.commits() for path in commit.reject_files]
        return [record for path in files for record in json.loads(self.storage.get(path))]

    def files(self) -> list[tuple[str, int]]:
        """Data files (path in the workdir, rows) in the order of the plan."""
        return [file for commit in self.commits() for file in commit.files]

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """One data file at a time, in the order of the plan.

        Raises:
            DamagedError: a file is not what was committed; its commit record has been withdrawn.
        """
        for path, _ in self.files():
            try:
                data = read_checked(self.storage, path)
            except DamagedError:
                self.withdraw(path)
                raise
            yield pq.read_table(pa.BufferReader(data), columns=columns)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """The whole table in the order of the plan."""
        empty = self.plan.schema.empty_table()
        return pa.concat_tables([empty.select(columns) if columns else empty, *self.batches(columns)])

    def record(self, commit: Commit) -> None:
        """Notes a commit that a worker of this driver reported."""
        self.committed()[commit.shard] = commit

    def seal(self) -> None:
        """Writes the shortcut that holds every commit record."""
        self.storage.put(self._complete, json.dumps([asdict(commit) for commit in self.commits()]).encode())

    def withdraw(self, file: str) -> None:
        """Takes back the commit of the shard that wrote `file`, so that the next run does it again."""
        shard = file.rsplit("/", 1)[1].split(".", maxsplit=1)[0]
        self.storage.remove(self._complete)
        self.storage.remove(commit_path(self.path, shard, self.plan.id))
        self._commits = None

    def sealed(self) -> bool:
        """Whether one object holds all commit records."""
        return self.storage.exists(self._complete)

    @property
    def _complete(self) -> str:
        return f"{self.path}/complete.{self.plan.id}.json"

    def _sealed_commits(self) -> list[Commit] | None:
        try:
            return [Commit.from_json(record) for record in json.loads(self.storage.get(self._complete))]
        except KeyError:
            return None

    def names(self) -> set[str]:
        """Names of the shards that have a commit record, by a listing: no record is read."""
        ending = f".{self.plan.id}.json"
        paths = self.storage.list(f"{self.path}/commits")
        return {path.rsplit("/", 1)[1].removesuffix(ending) for path in paths if path.endswith(ending)}

    def read_commits(self, shards: Iterable[str]) -> list[Commit]:
        """Commit records of some shards, in any order."""
        paths = [commit_path(self.path, shard, self.plan.id) for shard in shards]
        with ThreadPoolExecutor(16) as pool:
            return [Commit.from_json(json.loads(data)) for data in pool.map(self.storage.get, paths)]


def commit_path(table: str, shard: str, plan: str) -> str:
    """Name of a commit record."""
    return f"{table}/commits/{shard}.{plan}.json"


def put_rows(storage: Storage, table: str, shard: str, rows: pa.Table) -> tuple[tuple[str, int], ...]:
    """Writes a data file named after its content; returns (path, rows), or nothing for no rows."""
    if rows.num_rows == 0:
        return ()
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    data = sink.getvalue().to_pybytes()
    path = f"{table}/data/{shard}.{hashlib.sha256(data).hexdigest()}.parquet"
    storage.put(path, data)
    return ((path, rows.num_rows),)


def put_rejects(storage: Storage, table: str, shard: str, records: list[dict[str, Any]]) -> tuple[str, ...]:
    """Writes the rejects of a shard; returns the path, or nothing for no rejects."""
    if not records:
        return ()
    data = json.dumps(records).encode()
    path = f"{table}/rejects/{shard}.{hashlib.sha256(data).hexdigest()}.json"
    storage.put(path, data)
    return (path,)


def publish(storage: Storage, table: str, plan: str, commit: Commit) -> Commit:
    """Commits a shard whose files are written; returns the record that counts, which may be another finisher's."""
    path = commit_path(table, commit.shard, plan)
    if storage.create(path, json.dumps(asdict(commit)).encode()):
        return commit
    winner = Commit.from_json(json.loads(storage.get(path)))
    named = {name for name, _ in winner.files} | set(winner.reject_files)
    for name in [name for name, _ in commit.files] + list(commit.reject_files):
        if name not in named:
            storage.remove(name)
    return winner


def read_checked(storage: Storage, path: str) -> pa.Buffer:
    """Bytes of a data file, checked against the sha256 in its name.

    Raises:
        DamagedError: the file is missing, or is not what was committed.
        StorageError: the storage refuses.
    """
    expected = path.rsplit(".", 2)[1]
    try:
        data = storage.buffer(path)
    except KeyError:
        raise DamagedError(path, "the file is missing") from None
    except STORAGE_ERRORS as error:
        raise StorageError(str(error).strip().partition("\n")[0]) from error
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise DamagedError(path, f"{data.size} bytes with sha256 {found[:12]}…, committed was {expected[:12]}…")
    return data


def plan_shards(table: Table, rows_per_shard: int, *, where: str | None = None, units_per_row: int = 1) -> list[Shard]:
    """Cuts the committed rows of a table into shards "00000", "00001", ….

    Args:
        table: a complete table.
        rows_per_shard: most rows of a shard.
        where: boolean column; only rows where it is true are planned.
        units_per_row: units each row must account for.
    """
    pieces: list[list[Slice]] = [[]]
    counts = [0]
    files = table.files()
    masks = (batch.column(where).to_numpy() for batch in table.batches([where])) if where else None
    for file, rows in files:
        kept = next(masks).nonzero()[0] if masks is not None else range(rows)
        done = 0
        while done < len(kept):
            if counts[-1] == rows_per_shard:
                pieces.append([])
                counts.append(0)
            take = min(rows_per_shard - counts[-1], len(kept) - done)
            start, stop = int(kept[done]), int(kept[done + take - 1]) + 1
            pieces[-1].append(Slice(file, start, stop, where))
            counts[-1] += take
            done += take
    return [
        Shard(f"{number:05d}", count, units_per_row, tuple(slices))
        for number, (count, slices) in enumerate(zip(counts, pieces, strict=True))
        if count
    ]


def check_fingerprint(path: str, stage: str, planned: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuses to go on with a table or artefact that was planned from something else.

    Raises:
        InputError: names each differing key with both values, and `--overwrite`.
    """
    before, now = _flat(planned), _flat(json.loads(json.dumps(wanted)))
    keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if keys:
        absent = "absent"
        lines = [f"  {key}: was {_short(before.get(key, absent))}, is {_short(now.get(key, absent))}" for key in keys]
        more = [f"  … and {len(keys) - 10} more"] if len(keys) > 10 else []
        raise InputError(
            f"{path} was made with other settings or inputs:\n" + "\n".join(lines[:10] + more) + "\n"
            f"Put them back, or do the stage and all after it again with --overwrite {stage}."
        )


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {name: v for k in value for name, v in _flat(value[k], f"{key}.{k}" if key else str(k)).items()}
    return {key: value}


def _short(value: Any) -> str:
    text = value if value == "absent" else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
