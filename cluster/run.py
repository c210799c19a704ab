"""A run: one workdir, and the two ways a stage is done in it: over shards (`execute`) or in one piece (`once`)."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

from cluster.errors import DamagedError, InputError, RunError
from cluster.schemas import STAGES, stage_of
from cluster.settings import ClusterSettings, PoolSettings
from cluster.tables.background_writes import BackgroundWrites
from cluster.tables.fingerprint import check_fingerprint
from cluster.tables.gc import collect
from cluster.tables.plan import Plan, Shard
from cluster.tables.storage import Storage, check_writable
from cluster.tables.table import Table, discard
from cluster.watch.heartbeat import heartbeat_path
from cluster.watch.monitor import Monitor
from cluster.watch.one_process_stage import Watch
from cluster.watch.progress import Progress
from cluster.workers.commit_split import commit_split
from cluster.workers.stage import Stage
from cluster.workers.stage_log import StageLog
from cluster.workers.tasks import Split


class Run:
    """A workdir and the cluster that works on it. Use as a context manager, or call `close`.

    Constructing it with `overwrite` clears those stages and all after them.
    """

    def __init__(
        self,
        workdir: str,
        settings: ClusterSettings,
        *,
        overwrite: frozenset[str] = frozenset(),
        progress: Progress | None = None,
    ) -> None:
        self.storage = Storage(workdir, settings.storage_timeout_s)
        check_writable(workdir)
        self.settings = settings
        self.progress = progress or Progress()
        self._connected = False
        self._stages: dict[str, Stage] = {}
        self._repaired: set[str] = set()
        if unknown := overwrite - STAGES.keys():
            raise InputError(f"--overwrite {', '.join(sorted(unknown))}: no such stage; there are {', '.join(STAGES)}")
        order = list(STAGES)
        first = min((order.index(stage) for stage in overwrite), default=len(order))
        for stage in reversed(order[first:]):  # so that what is left, if it dies here, was made from what is there
            for folder in STAGES[stage]:
                discard(self.storage, folder)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> None:
        """Starts or joins Ray when it is first needed."""
        from cluster.machines import session

        self._connected = session.connect(self.settings) or self._connected

    def close(self) -> None:
        """Ends a Ray session that this run started."""
        if self._connected:
            from cluster.machines import session

            session.disconnect()
            self._connected = False

    def check(self, pools: dict[str, PoolSettings]) -> None:
        """Refuses pools of which not one worker fits on any node, before anything starts.

        Raises:
            InputError: names the stage, what its workers want, and what each node has.
        """
        from cluster.machines import session

        self.connect()
        for stage, pool in pools.items():
            session.check_places(stage, pool)

    def table(self, path: str) -> Table:
        """A table of this run.

        Raises:
            KeyError: it was never planned.
        """
        return Table.open(self.storage, path)

    # ---- a stage over shards

    def execute(self, stage: Stage) -> Table:
        """Plans or resumes a table and does what is missing. A finished one costs a look and starts no Ray.

        Raises:
            InputError: the table was made from something else, a worker found bad input, or no node can hold one.
            RunError: too many rejects, a time limit, a worker that does not start or breaks its contract.
        """
        self._stages[stage.path] = stage
        table, is_new = self._plan(stage)
        if not table.sealed():
            try:
                self._work(stage, table)
            except InputError:
                if is_new and (stage.reads_files or not table.names()):
                    discard(self.storage, stage.path)
                raise
            self._finish(stage, table)
        self._check_rejects(table)
        return table

    def _plan(self, stage: Stage) -> tuple[Table, bool]:
        try:
            table, is_new = self.table(stage.path), False
        except KeyError:
            if stage.shards:
                self.check({stage_of(stage.path): stage.pool})
            plan = Plan.new(stage.table, stage.shards, stage.fingerprint)
            is_new = self.storage.create(f"{stage.path}/plan.json", plan.to_bytes())
            table = self.table(stage.path)  # of two drivers, the plan that was created first
        check_fingerprint(stage.path, stage_of(stage.path), table.plan.fingerprint, stage.fingerprint)
        return table, is_new

    def _work(self, stage: Stage, table: Table) -> None:
        if table.complete:
            return
        writes = BackgroundWrites(
            Storage(self.storage.url)
        )  # without patience: what is worth showing is not worth a wait
        try:
            with (
                self.progress.task(stage.title, table.plan.units, stage.table.unit) as handle,
                Monitor(table, handle, writes) as monitor,
            ):
                while missing := [shard for shard in table.plan.shards if shard.name not in table.committed()]:
                    try:
                        self._pool(stage, table, missing, monitor, writes)
                    except DamagedError as damaged:
                        self._repair(damaged)
        finally:
            writes.close()

    def _pool(
        self, stage: Stage, table: Table, missing: list[Shard], monitor: Monitor, writes: BackgroundWrites
    ) -> None:
        name = stage_of(stage.path)
        self.check({name: stage.pool})  # before Ray is imported, since connecting decides what Ray reads then
        from cluster.workers.actor import Job
        from cluster.workers.pool import Pool

        job = Job(
            self.storage.url, self.storage.patience_s, stage.path, name, table.plan.id, table.plan.schema,
            list(sys.path), uuid.uuid4().hex,
        )  # fmt: skip
        log = StageLog(self.storage, stage.path, writes)
        limit = self.settings.max_reject_fraction * table.plan.units
        rejects = sum(commit.rejects for commit in table.commits())
        try:
            with Pool(stage, job, self.settings, log) as pool:
                for result in pool.run(missing):
                    monitor.look(pool)
                    if result is None:
                        continue
                    commit = commit_split(table, result) if isinstance(result, Split) else result
                    table.record(commit)
                    monitor.done(commit)
                    rejects += commit.rejects
                    if rejects > limit:
                        break
        finally:
            log.close()
        self._check_rejects(table)

    def _repair(self, damaged: DamagedError) -> None:
        """Does the shard of a damaged input file again, once, if this run knows how; downstream plans stay valid if its
        rows come out the same, since files are named after their content."""
        path = damaged.path.rsplit("/data/", 1)[0]
        stage = self._stages.get(path)
        if stage is None or damaged.path in self._repaired:
            raise damaged
        self._repaired.add(damaged.path)
        table = self.table(path)
        before = table.fingerprint
        table.withdraw(damaged.path)
        self.progress.say(f"{damaged.path} is damaged ({damaged.found}); its shard is done again")
        if self.execute(stage).fingerprint != before:
            raise RunError(
                f"{damaged.path} was damaged ({damaged.found}) and its shard came out with other rows when it was done "
                f"again. What was made from it must be done again too: run with --overwrite for the stage after "
                f"{stage_of(path)}."
            )

    def _finish(self, stage: Stage, table: Table) -> None:
        """The final accounting: every planned unit is a row, a counted drop or a reject."""
        for shard in table.plan.shards:
            table.committed()[shard.name].check(f"{stage.path}, shard {shard.name}", shard.units)
        table.seal()
        collect(table)

    def _check_rejects(self, table: Table) -> None:
        commits = table.commits()
        rejected = sum(commit.rejects for commit in commits)
        units = table.plan.units
        if rejected <= self.settings.max_reject_fraction * units:
            return
        errors = Counter(record["error"] for record in table.rejects())
        common = "\n".join(f"  {count} × {error}" for error, count in errors.most_common(3))
        raise RunError(
            f"{table.path}: {rejected} of {units} units could not be done, more than the "
            f"{self.settings.max_reject_fraction:.1%} that cluster.max_reject_fraction allows. The commonest errors:\n"
            f"{common}\nPut the cause right and run again with --overwrite {stage_of(table.path)}, or allow more."
        )

    # ---- a stage in one piece

    def once(
        self, name: str, fingerprint: dict[str, Any], produce: Callable[[], dict[str, Any]], *, title: str
    ) -> dict[str, Any]:
        """Runs `produce` unless it was done from the same fingerprint; returns its record (JSON).

        `produce` may have been cut short in an earlier run, with the same fingerprint: what it left in its folder is
        its own to resume.

        Raises:
            InputError: it was done, or begun, from something else.
        """
        plan_path, record_path = f"{name}/plan.json", f"{name}/record.json"
        content = json.dumps({"fingerprint": fingerprint}).encode()
        is_new = self.storage.create(plan_path, content)
        if not is_new:
            planned = json.loads(self.storage.get(plan_path))["fingerprint"]
            check_fingerprint(name, stage_of(name), planned, fingerprint)
            with contextlib.suppress(KeyError, ValueError):  # not done; or cut short by a power cut
                return json.loads(self.storage.get(record_path))
        begun = time.monotonic()
        self.progress.current = None
        try:
            with Watch(Storage(self.storage.url), name, self.progress):
                record = produce()
        except InputError:
            if is_new:
                self.storage.remove(plan_path)
                self.storage.remove(heartbeat_path(name))
            raise
        record.setdefault("seconds", round(time.monotonic() - begun, 3))
        self.storage.put(record_path, json.dumps(record, indent=1).encode())
        if not self.progress.console.is_terminal:
            self.progress.say(f"{title}: {record['seconds']:.1f} s")
        return record
