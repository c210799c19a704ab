"""The Ray actor around a worker: it reads a task's rows, calls the worker, and writes data and commit record.

The actor raises nothing to the driver. Every task ends with a `Done` or a `Failure`; only the death of the process
reaches the driver as an exception of Ray's. If the process dies, work that it has not committed is done again.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import pyarrow as pa
import ray

from cluster.disclosure import disclose
from cluster.errors import InputError, RunError
from cluster.machines import sent_variables
from cluster.machines.private_folder import keep_caches_private
from cluster.tables.commit import Commit, publish, put_rejects, put_rows
from cluster.tables.dropped import put_dropped
from cluster.tables.plan import Shard
from cluster.tables.shard_reader import ShardReader
from cluster.tables.storage import Storage, check_usable, seconds_since_retry
from cluster.workers.core_clock import CoreClock
from cluster.workers.failures import Failure, Kind
from cluster.workers.process import identify, machine_id
from cluster.workers.threads import held_cores, hide_other_gpus, use_held_cores
from cluster.workers.worker import Output, Task

POOL_VARIABLE = "LISTWISE_POOL"
_shard_name: contextvars.ContextVar[str] = contextvars.ContextVar("shard", default="-")


@dataclass(frozen=True)
class Place:
    """The place where an actor runs.

    Attributes:
        node: "host name/first letters of the Ray node's id", for people.
        node_id: id of the Ray node.
        machine: what `machine_id` returns there.
        process: the actor's process, as `identify` describes it.
    """

    node: str
    node_id: str
    machine: str
    process: tuple[int, float]


@dataclass(frozen=True)
class Done:
    """The result of a task that succeeded.

    Attributes:
        commit: the record that counts; for a part of a shard it is not published yet.
        log: what the worker logged.
        children: the child processes of the actor, if they were listed this time.
    """

    commit: Commit
    log: list[str] = field(default_factory=list)
    children: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """The facts that all actors of a pool share, except the worker itself, which Ray's object store passes on.

    `mark` is a random text. The pool's processes have it in their environment, so it tells them from other processes.
    `variables` are environment variables that were sent to the driver; they may be secrets.
    """

    storage_url: str
    patience_s: float
    table: str
    stage: str
    plan_id: str
    schema: pa.Schema
    sys_path: list[str]
    mark: str
    variables: dict[str, str] = field(default_factory=dict, repr=False)


class _LogKeeper(logging.Handler):
    """Keeps the worker's log lines, by shard, until the driver gets them with a result."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: dict[str, list[str]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text = disclose(f"{record.levelname} {record.name}: {record.getMessage()}")  # its secrets are known here
        self.lines.setdefault(_shard_name.get(), []).append(text)

    def take(self, shard: str) -> list[str]:
        return self.lines.pop("-", []) + self.lines.pop(shard, [])


class ShardActor:
    """One worker of a pool. The actor is asynchronous: it reads or writes one task while it processes another."""

    def __init__(self, job: Job, name: str, payload: list[Any]) -> None:
        self.job = job
        self.name = name
        self._payload = payload
        self._worker: Any = None
        self._processing = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._log = _LogKeeper()
        self._children_read_at = 0.0
        self._node_id = ray.get_runtime_context().get_node_id()
        self._node = f"{socket.gethostname()}/{self._node_id[:6]}"
        sent_variables.take(job.variables)
        os.environ[POOL_VARIABLE] = job.mark  # child processes inherit it, so orphans can be recognised
        logging.getLogger().addHandler(self._log)
        known = set(sys.path)
        sys.path.extend(path for path in job.sys_path if path not in known)

    async def place(self) -> Place:
        """The place where this actor runs; the driver asks before the slow construction of the worker."""
        return Place(self._node, self._node_id, machine_id(), identify(psutil.Process()))

    async def start(self) -> Failure | tuple[bool, list[tuple[int, float]]]:
        """Constructs the worker; returns whether its `process` is a coroutine, and its child processes."""
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(initializer=use_held_cores))
        try:
            # in a thread, because a constructor may load a model for minutes, or start an event loop of its own
            worker, arguments = await self._payload[0]
            self._worker = await asyncio.to_thread(self._construct, worker, arguments)
        except Exception as error:
            return Failure.of(error, "start", "", self._log.take("-"))
        return inspect.iscoroutinefunction(self._worker.process), self._children(refresh=True)

    def _construct(self, worker: Any, arguments: dict[str, Any]) -> Any:
        self._storage = Storage(self.job.storage_url, self.job.patience_s)
        self._reader = ShardReader(self._storage)
        check_workdir(self._storage, self.job, self._node)
        hide_other_gpus()
        keep_caches_private()
        use_held_cores()
        made = worker(**arguments)
        self._clock = CoreClock()
        return made

    async def seconds_since_retry(self) -> float:
        """Seconds since this process last waited for a storage that failed: 0 while it does, infinite if never."""
        return seconds_since_retry()

    async def run(self, shard: Shard, start: int, stop: int, attempt: int) -> Done | Failure:
        """Does rows `start` to `stop` of a shard, and commits the shard if these are all its rows."""
        _shard_name.set(shard.name)
        place = f"stage {self.job.stage}, shard {shard.name}, rows {start} to {stop}"
        default_kind: Kind = "run"
        try:
            async with self._reading:
                rows = await asyncio.to_thread(self._reader.rows, shard, start, stop)
            task, default_kind = Task(shard, start, stop, rows), "row"
            output, seconds = await self._process(task)
            default_kind = "run"
            commit = await asyncio.to_thread(self._write, task, attempt, output, seconds, place)
        except Exception as error:
            return Failure.of(error, default_kind, place, self._log.take(shard.name))
        return Done(commit, self._log.take(shard.name), self._children())

    async def _process(self, task: Task) -> tuple[Output, float]:
        """The worker's output for a task, and the seconds it took."""
        if inspect.iscoroutinefunction(self._worker.process):
            begun = time.monotonic()
            return await self._worker.process(task), time.monotonic() - begun
        async with self._processing:
            begun = time.monotonic()
            return await asyncio.to_thread(self._worker.process, task), time.monotonic() - begun

    def _write(self, task: Task, attempt: int, output: Output, seconds: float, place: str) -> Commit:
        """Writes data and rejects of a task; publishes the commit record if the task is a whole shard."""
        shard, storage, path = task.shard, self._storage, self.job.table
        cpu_s, passed_s = self._clock.take()
        commit = Commit(
            shard=shard.name,
            files=(),
            rows=output.rows.num_rows,
            units=shard.units_of(task.start, task.stop),
            drops={reason: count for reason, count in output.drops.items() if count},
            rejects=sum(reject.units for reject in output.rejects),
            tokens=output.tokens,
            seconds=round(seconds, 3),
            worker=self.name,
            node=self._node,
            stats=output.stats,
            attempts=attempt,
            cpu_s=round(cpu_s, 3),
            held_s=round(held_cores() * passed_s, 3),
        )
        commit.check(place, commit.units)
        rejects = [
            {"stage": self.job.stage, "shard": shard.name, "row": r.row, "error": r.error, "units": r.units,
             "attempts": attempt}
            for r in output.rejects
        ]  # fmt: skip
        files = put_rows(storage, path, shard.name, _conform(output.rows, self.job.schema, place))
        commit = replace(
            commit,
            files=files,
            reject_files=put_rejects(storage, path, shard.name, rejects),
            dropped_files=put_dropped(storage, path, shard.name, output.dropped),
        )
        whole = task.start == 0 and task.stop == shard.rows
        return publish(storage, path, self.job.plan_id, commit) if whole else commit

    async def stop(self) -> list[tuple[int, float]]:
        """Closes the worker and returns the child processes that are still alive."""
        if hasattr(self._worker, "close"):
            closing = await asyncio.to_thread(self._worker.close)
            if inspect.isawaitable(closing):
                await closing
        return self._children(refresh=True)

    def _children(self, refresh: bool = False) -> list[tuple[int, float]]:
        """The child processes of this process. Without `refresh` they are listed only if 5 s have passed, else []."""
        if not refresh and time.monotonic() - self._children_read_at < 5.0:
            return []
        self._children_read_at = time.monotonic()
        children = []
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error, OSError):  # the child ended meanwhile
                children.append(identify(child))
        return children


def check_workdir(storage: Storage, job: Job, node: str, waits_s: Sequence[float] = (0.5, 1, 2, 4, 8, 16)) -> None:
    """Refuses a workdir that this process does not share with the driver, or to which it cannot write.

    Args:
        storage: the workdir as this process sees it.
        job: names the plan that the driver has written.
        node: name of the node, for the message.
        waits_s: pauses between tries; a network file system may show a new file late.

    Raises:
        InputError: the plan is absent here.
        RunError: another run has made a newer plan.
        StorageError: the workdir does not accept a file.
    """
    check_usable(storage.url, storage.patience_s)
    path = f"{job.table}/plan.json"
    for wait in (*waits_s, None):
        try:
            planned = json.loads(storage.get(path))["id"]
            break
        except KeyError:
            if wait is None:
                raise InputError(
                    f"workdir {storage.url}: node {node} sees another folder of this name. The driver has written "
                    f"{path}, and the file is absent on this node. Name a workdir that all nodes share: on a network "
                    "file system, or s3://, gs://, az://."
                ) from None
            time.sleep(wait)
    if planned != job.plan_id:
        raise RunError(f"{job.table} was planned anew by another run while this one worked on it")


def _conform(rows: pa.Table, schema: pa.Schema, place: str) -> pa.Table:
    """The rows with exactly the columns and types of a schema."""
    missing = [name for name in schema.names if name not in rows.column_names]
    if missing:
        present = ", ".join(rows.column_names)
        raise RunError(f"{place}: the rows have no column {', '.join(missing)}; they have {present}")
    return rows.select(schema.names).cast(schema)
