"""The Ray actor around a worker: reads a task's rows, has them done, writes data and commit. It keeps no state.

Nothing is raised to the driver: every way a task can end comes back as a `Done` or a `Failure`, and only the death of
the process arrives as an exception of Ray's.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import os
import socket
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import Any, Literal

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from cluster.errors import DamagedError, InputError, RunError
from cluster.process import identify, machine_id
from cluster.storage import STORAGE_ERRORS, Storage, StorageError
from cluster.tables import Commit, Shard, publish, put_rejects, put_rows, read_checked
from cluster.worker import Output, Task

POOL_VARIABLE = "LISTWISE_POOL"
_shard_name: contextvars.ContextVar[str] = contextvars.ContextVar("shard", default="-")


@dataclass(frozen=True)
class Place:
    """Where an actor runs: node for people, ids to find its process again. A process is what `identify` returns."""

    node: str
    node_id: str
    machine: str
    process: tuple[int, float]


@dataclass(frozen=True)
class Done:
    """A task that ended well. `commit` is the record that counts; for a part of a shard it is not published yet."""

    commit: Commit
    log: list[str] = field(default_factory=list)
    children: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Failure:
    """A task that did not. What is to be done depends on `kind`, not on the exception's type.

    input: a person's mistake; bug: the worker broke its contract; damaged: an input file is not what was committed;
    storage: reading or writing failed, no row is to blame; row: processing failed, some row is to blame.
    """

    kind: Literal["input", "bug", "damaged", "storage", "row"]
    error: str
    path: str = ""
    log: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """What every actor of a pool shares. The worker travels apart, in Ray's object store."""

    storage_url: str
    table: str
    stage: str
    plan_id: str
    schema: pa.Schema
    sys_path: list[str]
    pool: str


class ShardReader:
    """Reads rows of shards; holds the last data file, since neighbouring shards share it."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._path = ""
        self._file: pq.ParquetFile | None = None

    def rows(self, shard: Shard, start: int, stop: int) -> pa.Table | None:
        """Rows `start` to `stop` of a shard, or None if it is no rows of a table."""
        if not shard.slices:
            return None
        parts = []
        for piece in shard.slices:
            if piece.file != self._path or self._file is None:
                self._path, self._file = "", None  # free the old file before the new one is read
                self._file = pq.ParquetFile(pa.BufferReader(read_checked(self.storage, piece.file)))
                self._path = piece.file
            part = _row_range(self._file, piece.start, piece.stop)
            parts.append(part.filter(pc.field(piece.where)) if piece.where else part)
        return pa.concat_tables(parts).slice(start, stop - start)


def _row_range(file: pq.ParquetFile, start: int, stop: int) -> pa.Table:
    groups: list[int] = []
    first = seen = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if seen < stop and seen + rows > start:
            first = first if groups else seen
            groups.append(group)
        seen += rows
    return file.read_row_groups(groups).slice(start - first, stop - start)


class _LogKeeper(logging.Handler):
    """Keeps what the worker logs until the driver takes it with a result."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: dict[str, list[str]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.setdefault(_shard_name.get(), []).append(f"{record.levelname} {record.name}: {record.getMessage()}")

    def take(self, shard: str) -> list[str]:
        return self.lines.pop("-", []) + self.lines.pop(shard, [])


class ShardActor:
    """One worker of a pool. An async actor, so that one task is read or written while another is being done."""

    def __init__(self, job: Job, name: str, payload: list[Any]) -> None:
        self.job = job
        self.name = name
        self._payload = payload
        self._worker: Any = None
        self._lock = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._log = _LogKeeper()
        self._looked = 0.0
        os.environ[POOL_VARIABLE] = job.pool  # children inherit it: orphans can be told from strangers
        logging.getLogger().addHandler(self._log)
        known = set(sys.path)
        sys.path.extend(path for path in job.sys_path if path not in known)

    async def place(self) -> Place:
        """Says where this actor runs, before the slow construction of the worker."""
        process = psutil.Process()
        context = ray.get_runtime_context()
        node_id = context.get_node_id()
        self._node = f"{socket.gethostname()}/{node_id[:6]}"
        return Place(self._node, node_id, machine_id(), identify(process))

    async def start(self) -> Failure | tuple[bool, list[tuple[int, float]]]:
        """Constructs the worker; returns whether it is asynchronous, and its child processes."""
        self._storage = Storage.open(self.job.storage_url)
        self._reader = ShardReader(self._storage)
        try:
            # a thread: a constructor may load a model for minutes, and may start an event loop of its own
            self._worker = await asyncio.to_thread(self._construct)
        except InputError as error:
            return Failure("input", str(error))
        except DamagedError as error:
            return Failure("damaged", error.found, error.path)
        except StorageError as error:
            return Failure("storage", f"reading: {describe(error)}")
        except Exception as error:
            return Failure("bug", describe(error), log=traceback.format_exc().splitlines())
        return inspect.iscoroutinefunction(self._worker.process), self._children(now=True)

    def _construct(self) -> Any:
        worker, arguments = ray.get(self._payload[0])
        return worker(**arguments)

    async def run(self, shard: Shard, start: int, stop: int, attempt: int) -> Done | Failure:
        """Does rows `start` to `stop` of a shard, and commits it if those are all of its rows."""
        _shard_name.set(shard.name)
        task = await self._read(shard, start, stop)
        if isinstance(task, Failure):
            return task
        try:
            output, begun = await self._process(task)
        except InputError as error:
            return Failure("input", str(error))
        except DamagedError as error:
            return Failure("damaged", error.found, error.path)
        except StorageError as error:
            return Failure("storage", f"reading: {describe(error)}")
        except RunError as error:
            return Failure("bug", str(error), log=self._log.take(shard.name))
        except Exception as error:
            lines = [*self._log.take(shard.name), *traceback.format_exc().splitlines()]
            return Failure("row", describe(error), log=lines)
        return await self._finish(task, attempt, output, time.monotonic() - begun)

    async def _read(self, shard: Shard, start: int, stop: int) -> Task | Failure:
        try:
            async with self._reading:
                return Task(shard, start, stop, await asyncio.to_thread(self._reader.rows, shard, start, stop))
        except DamagedError as error:
            return Failure("damaged", error.found, error.path)
        except STORAGE_ERRORS as error:
            return Failure("storage", f"reading: {describe(error)}")
        except Exception as error:
            return Failure("bug", f"reading: {describe(error)}", log=traceback.format_exc().splitlines())

    async def _finish(self, task: Task, attempt: int, output: Output, seconds: float) -> Done | Failure:
        where = f"stage {self.job.stage}, shard {task.shard.name}, rows {task.start} to {task.stop}"
        try:
            _check_accounts(task, output)
            table = _conform(output.rows, self.job.schema)
            commit = await asyncio.to_thread(self._write, task, attempt, output, table, seconds)
        except STORAGE_ERRORS as error:
            return Failure("storage", f"writing: {describe(error)}")
        except RunError as error:
            return Failure("bug", f"{where}: {error}")
        except Exception as error:
            return Failure("bug", f"{where}: {describe(error)}", log=traceback.format_exc().splitlines())
        return Done(commit, self._log.take(task.shard.name), self._children())

    async def _process(self, task: Task) -> tuple[Output, float]:
        if inspect.iscoroutinefunction(self._worker.process):
            begun = time.monotonic()
            return await self._worker.process(task), begun
        async with self._lock:
            begun = time.monotonic()
            return await asyncio.to_thread(self._worker.process, task), begun

    def _write(self, task: Task, attempt: int, output: Output, table: pa.Table, seconds: float) -> Commit:
        shard = task.shard
        rejects = [
            {"stage": self.job.stage, "shard": shard.name, "row": r.row, "error": r.error, "units": r.units,
             "attempts": attempt}
            for r in output.rejects
        ]  # fmt: skip
        commit = Commit(
            shard=shard.name,
            files=put_rows(self._storage, self.job.table, shard.name, table),
            rows=table.num_rows,
            units=(task.stop - task.start) * shard.units_per_row,
            drops={reason: count for reason, count in output.drops.items() if count},
            rejects=sum(reject.units for reject in output.rejects),
            tokens=output.tokens,
            seconds=round(seconds, 3),
            worker=self.name,
            node=self._node,
            stats=output.stats,
            reject_files=put_rejects(self._storage, self.job.table, shard.name, rejects),
            attempts=attempt,
        )
        whole = task.start == 0 and task.stop == shard.rows
        return publish(self._storage, self.job.table, self.job.plan_id, commit) if whole else commit

    async def stop(self) -> list[tuple[int, float]]:
        """Closes the worker and returns the child processes that are still there."""
        if hasattr(self._worker, "close"):
            closing = await asyncio.to_thread(self._worker.close)
            if inspect.isawaitable(closing):
                await closing
        return self._children(now=True)

    def _children(self, now: bool = False) -> list[tuple[int, float]]:
        if not now and time.monotonic() - self._looked < 5.0:
            return []
        self._looked = time.monotonic()
        found = []
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error, OSError):  # it ended meanwhile
                found.append(identify(child))
        return found


def _check_accounts(task: Task, output: Output) -> None:
    dropped, rejected = sum(output.drops.values()), sum(reject.units for reject in output.rejects)
    planned = (task.stop - task.start) * task.shard.units_per_row
    rows = output.rows.num_rows
    if rows + dropped + rejected != planned:
        raise RunError(f"{planned} units planned, but {rows} rows + {dropped} drops + {rejected} rejects came out")


def _conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    missing = [name for name in schema.names if name not in rows.column_names]
    if missing:
        raise RunError(f"the rows have no column {', '.join(missing)}; they have {', '.join(rows.column_names)}")
    return rows.select(schema.names).cast(schema)


def describe(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__
