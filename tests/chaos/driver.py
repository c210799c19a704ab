"""The driver that the fault tests kill. It runs two stages, and the second reads the table of the first.

The argument is a JSON file with a `Spec`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cluster.run import Run
from cluster.settings import ClusterSettings, PoolSettings
from cluster.tables.gc import collect_all
from cluster.tables.plan_shards import plan_shards
from cluster.watch.progress import Progress
from cluster.workers import commit_split as engine
from cluster.workers.stage import Stage
from launcher import cli
from tests.chaos.workers import NUMBERS, DiesBeforeRecord, Recorded, RecordedAsync, patch_for_death
from tests.cluster.example_workers import shards

# Points where the driver can be killed while it commits a shard that was cut to find a bad row: (function, after it).
CRASHES = {
    "before the rejects": ("put_rejects", False),
    "between rejects and record": ("publish", False),
    "after the record": ("publish", True),
}


@dataclass
class Spec:
    """The work of the driver, and the faults that happen to it.

    Attributes:
        workdir: where the run is.
        marker: file in which workers note every shard that they begin.
        address: a Ray cluster to join; None: the driver starts Ray.
        rows, rows_per_shard, seconds: numbers of the first stage, numbers of a shard, and time of a shard.
        poison: a number that cannot be done.
        between: a shard of the first stage; its worker kills the driver between the data file and the commit record.
        delay: seconds that this worker then waits before it commits.
        crash: the point of the driver's own commit where the driver is killed, a key of CRASHES.
        gate: a path; after the first stage the driver creates the file and waits until it is removed.
        cluster: fields of `ClusterSettings`.
        pool: fields of `PoolSettings`.
    """

    workdir: str
    marker: str
    address: str | None = None
    rows: int = 400
    rows_per_shard: int = 10
    seconds: float = 0.05
    poison: int | None = None
    between: str = ""
    delay: float = 0.0
    crash: str = ""
    gate: str = ""
    cluster: dict[str, Any] = field(default_factory=dict)
    pool: dict[str, Any] = field(default_factory=lambda: {"cpus": 0.5})

    def save(self, path: Path) -> None:
        """Writes the spec to the file that the driver reads."""
        path.write_text(json.dumps(asdict(self)))


def main(spec: Spec) -> None:
    settings = {"cpus": 2, "wait_timeout_s": 60.0, "shard_timeout_s": 60.0, "shard_attempts": 3, **spec.cluster}
    if spec.crash:
        patch_for_death(engine, *CRASHES[spec.crash][:1], after=CRASHES[spec.crash][1])
    with Run(spec.workdir, ClusterSettings(address=spec.address, **settings), progress=Progress(quiet=True)) as run:
        collect_all(run.storage)  # as every `listwise run` does
        first = run.execute(_first(spec))
        if spec.gate:
            Path(spec.gate).touch()
            while Path(spec.gate).exists():
                time.sleep(0.05)
        arguments = {"seconds": spec.seconds, "table": "second", "marker": spec.marker}
        planned = plan_shards(first, spec.rows_per_shard + 5)
        fingerprint = {"first": first.fingerprint}
        pool = PoolSettings(**spec.pool)
        run.execute(Stage("second", NUMBERS, "second", RecordedAsync, arguments, planned, fingerprint, pool))


def _first(spec: Spec) -> Stage:
    arguments: dict[str, Any] = {"seconds": spec.seconds, "table": "first", "marker": spec.marker}
    if spec.poison is not None:
        arguments["poison"] = {spec.poison: "raise"}
    worker: type = Recorded
    if spec.between:
        worker = DiesBeforeRecord
        flag = f"{spec.workdir}.between"
        arguments |= {"shard": spec.between, "flag": flag, "victim": os.getpid(), "delay": spec.delay}
    planned = shards(spec.rows, spec.rows_per_shard)
    return Stage("first", NUMBERS, "first", worker, arguments, planned, {"v": 1}, PoolSettings(**spec.pool))


if __name__ == "__main__":
    spec = Spec(**json.loads(Path(sys.argv[1]).read_text()))
    cli.app = lambda: main(spec)  # type: ignore[assignment]  # so that messages and exit codes are those of the command
    cli.main()
