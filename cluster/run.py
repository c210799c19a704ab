"""A run: one workdir. A stage runs in it over shards (`execute`) or in this process (`execute_in_process`)."""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cluster import one_process
from cluster.errors import DamagedError, InputError, ListwiseError, RunError
from cluster.import_path import without_working_directory
from cluster.machines import ray_errors, sent_variables
from cluster.overwrite import Again, name_of, read_overwrite
from cluster.schemas import STAGES, stage_of
from cluster.settings import ClusterSettings, PoolSettings
from cluster.tables.background_writes import BackgroundWrites
from cluster.tables.fingerprint import check_fingerprint
from cluster.tables.gc import collect
from cluster.tables.plan import Plan, Shard
from cluster.tables.storage import Storage, check_usable
from cluster.tables.table import Table, discard
from cluster.watch.monitor import Monitor
from cluster.watch.progress import Progress
from cluster.workers.commit_split import commit_split
from cluster.workers.stage import Stage
from cluster.workers.stage_log import StageLog
from cluster.workers.tasks import Split

RAY_LOG = "logs/ray.log"  # whole errors of Ray's, whose texts are not for the screen


class Run:
    """A workdir and the cluster that works on it. Use it as a context manager, or call `close`.

    Args:
        workdir: a local path or an s3://, gs:// or az:// url.
        settings: the cluster and its limits.
        overwrite: stages to do again; their tables and those of all later stages are removed at once. "scores/NAME" is
            one teacher alone, and "embeddings/NAME" one retriever, with all later stages.
        progress: the terminal output.

    Raises:
        InputError: `overwrite` names no stage, or one that has made nothing, or the workdir cannot be used.
        StorageError: the workdir does not accept a file.
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
        check_usable(workdir)
        self.settings = settings
        self.progress = progress or Progress()
        self._connected = False
        self._stages: dict[str, Stage] = {}
        self._repaired: set[str] = set()
        self._remove(read_overwrite(overwrite))

    def _remove(self, again: Again) -> None:
        """Removes what is done again, unless another run works on some of it that has an owner."""
        for part in again.parts:
            self._refuse_absent(part)
        with one_process.own_all(self.storage, again.covers):
            # from the last stage back: if the process dies here, everything a remaining table was made from remains too
            for stage in reversed(again.stages):
                for folder in reversed(STAGES[stage]):
                    discard(self.storage, folder)
            for folder in (*again.parts, *again.kept):
                discard(self.storage, folder)

    def _refuse_absent(self, part: str) -> None:
        """Refuses a teacher or a retriever that has made nothing: its name may be misspelt."""
        stage, name = name_of(part).split("/")
        made = sorted({folder.rsplit("/")[-1] for top in STAGES[stage] for folder in self.storage.folders(top)})
        if name not in made:
            there = ", ".join(f"{stage}/{one}" for one in made) or "nothing"
            raise InputError(
                f"--overwrite {stage}/{name}: it has made nothing in {self.storage.url}; there is {there}. Correct the "
                "name, or leave the option out: what is not there is made in any case."
            )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        own = None
        if error is not None and ray_errors.is_ray_error(error):
            own = ray_errors.own_error(error, self.log_error(error))
        self.close()
        if own:
            raise own from error

    def log_error(self, error: BaseException) -> str:
        """Writes an error with its traceback, whose text is not for the screen, to a log; returns the log's address."""
        with contextlib.suppress(ListwiseError):
            before = self.storage.get(RAY_LOG) if self.storage.exists(RAY_LOG) else b""
            text = f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {ray_errors.whole(error)}\n"
            self.storage.put(RAY_LOG, before + text.encode())
        return f"{self.storage.url.rstrip('/')}/{RAY_LOG}"

    def connect(self) -> None:
        """Starts or joins Ray, unless this process is connected already."""
        from cluster.machines import session

        self._connected = session.connect(self.settings) or self._connected

    def close(self) -> None:
        """Ends a Ray session that this run started."""
        if self._connected:
            from cluster.machines import session

            session.disconnect()
            self._connected = False

    def check(self, pools: dict[str, PoolSettings]) -> None:
        """Refuses a stage's pool if no node can hold even one of its workers; call it before any work starts.

        Raises:
            InputError: it names the stage, the resources its workers want, and those of each node.
        """
        from cluster.machines import session

        self.connect()
        for stage, pool in pools.items():
            session.check_places(stage, pool)

    def table(self, path: str) -> Table:
        """A planned table of this run, complete or not.

        Raises:
            KeyError: the table has no plan.
        """
        return Table.open(self.storage, path)

    # ---- a stage over shards

    def execute(self, stage: Stage) -> Table:
        """Plans or resumes a stage's table, does the missing shards and returns the complete table.

        For a finished table this only reads the plan and the file with all commit records; it starts no Ray.

        Raises:
            InputError: the table was made with other settings or inputs, a worker found bad input, or no node can
                hold a worker.
            RunError: there are too many rejects, a time limit has passed, or a worker does not start or does not
                account for all its units.
        """
        self._stages[stage.path] = stage
        table, is_new = self._plan(stage)
        if not table.sealed():
            try:
                self._do_missing(stage, table)
            except InputError:
                if is_new and (stage.reads_files or not table.committed_names()):
                    discard(self.storage, stage.path)
                raise
            self._finish(stage, table)
        self._check_rejects(table)
        return table

    def check_again(self, stage: Stage) -> Table:
        """Executes a stage that only checks something: a table that was made with other settings is made again.

        Raises:
            InputError, RunError: as `execute`.
        """
        with contextlib.suppress(KeyError):
            if self.table(stage.path).plan.fingerprint != stage.fingerprint:
                discard(self.storage, stage.path)
        return self.execute(stage)

    def _plan(self, stage: Stage) -> tuple[Table, bool]:
        try:
            table, is_new = self.table(stage.path), False
        except KeyError:
            shards = stage.shards() if callable(stage.shards) else stage.shards
            if shards:
                self.check({stage_of(stage.path): stage.pool})
            plan = Plan.new(stage.table, shards, stage.fingerprint)
            is_new = self.storage.create(f"{stage.path}/plan.json", plan.to_bytes())
            table = self.table(stage.path)  # if two drivers plan at a time, the plan that was created first counts
        check_fingerprint(stage.path, name_of(stage.path), table.plan.fingerprint, stage.fingerprint)
        return table, is_new

    def _do_missing(self, stage: Stage, table: Table) -> None:
        if table.complete:
            return
        writes = BackgroundWrites(Storage(self.storage.url))  # no retries: heartbeats and logs must not delay work
        try:
            with (
                self.progress.task(stage.title, table.plan.units, stage.table.unit) as handle,
                Monitor(table, handle, writes) as monitor,
            ):
                while missing := [shard for shard in table.plan.shards if shard.name not in table.committed()]:
                    try:
                        self._run_pool(stage, table, missing, monitor, writes)
                    except DamagedError as damaged:
                        self._repair(damaged)
        finally:
            writes.close()

    def _run_pool(
        self, stage: Stage, table: Table, missing: list[Shard], monitor: Monitor, writes: BackgroundWrites
    ) -> None:
        name = stage_of(stage.path)
        self.connect()
        from cluster.machines import fork_server, session

        fork_server.preload(stage.imports)
        if stage.many_threads:
            stage = replace(stage, pool=session.with_all_cores(stage.pool))
        self.check({name: stage.pool})  # before the imports: connecting sets variables that Ray reads when imported
        from cluster.workers.actor import Job
        from cluster.workers.pool import Pool

        job = Job(
            self.storage.url, self.storage.patience_s, stage.path, name, table.plan.id, table.plan.schema,
            without_working_directory(sys.path), uuid.uuid4().hex, sent_variables.received(),
        )  # fmt: skip
        log = StageLog(self.storage, stage.path, writes)
        limit = self.settings.max_reject_fraction * table.plan.units
        rejects = sum(commit.rejects for commit in table.commits())
        try:
            with Pool(stage, job, self.settings, log) as pool:
                for result in pool.run(missing):
                    monitor.update(pool)
                    if result is None:
                        continue
                    commit = commit_split(table, result) if isinstance(result, Split) else result
                    table.add_commit(commit)
                    monitor.done(commit)
                    rejects += commit.rejects
                    if rejects > limit:
                        break
        finally:
            log.close()
        self._check_rejects(table)

    def _repair(self, damaged: DamagedError) -> None:
        """Does the shard of a damaged input file again, at most once a run, if this run has executed its stage.

        Files are named after their content. So if the new rows are the same, the plans that name the file stay valid.

        Raises:
            DamagedError: this run does not know the stage, or has repaired the file before.
            RunError: the shard came out with other rows.
        """
        path = damaged.path.rsplit("/data/", 1)[0]
        stage = self._stages.get(path)
        if stage is None or damaged.path in self._repaired:
            raise damaged
        self._repaired.add(damaged.path)
        table = self.table(path)
        before = table.fingerprint
        table.withdraw(damaged.path)
        self.progress.say(f"{damaged.path} is damaged ({damaged.damage}); its shard is done again")
        if self.execute(stage).fingerprint != before:
            raise RunError(
                f"{damaged.path} was damaged ({damaged.damage}). Its shard was done again and came out with other "
                "rows, so all that was made from it must be done again too: run with --overwrite for the stage after "
                f"{stage_of(path)}."
            )

    def _finish(self, stage: Stage, table: Table) -> None:
        """Checks that every planned unit is a row, a counted drop or a reject; then ends the table."""
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
            f"{common}\nRemove the cause and run again with --overwrite {name_of(table.path)}, or raise the limit."
        )

    # ---- a stage in one process

    def execute_in_process(
        self, name: str, fingerprint: dict[str, Any], produce: Callable[[], dict[str, Any]], *, title: str
    ) -> dict[str, Any]:
        """Runs a stage in this process by calling `produce`, unless it is done already; returns its record (JSON).

        See `cluster/one_process.py`.

        Raises:
            InputError: the stage was done, or begun, with another fingerprint.
        """
        return one_process.execute(self.storage, self.progress, name, fingerprint, produce, title)
