"""The driver that chaos kills: two stages, the second reading the first, on the workdir and cluster it is told."""

from __future__ import annotations

import sys

from cluster.progress import Progress
from cluster.run import Run
from cluster.settings import ClusterSettings, PoolSettings
from cluster.stage import Stage
from cluster.tables import plan_shards
from tests.cluster.workers import NUMBERS, Count, CountAsync, shards

ROWS = 600


def main(workdir: str, address: str | None, marker: str) -> None:
    settings = ClusterSettings(address=address, cpus=2, wait_timeout_s=60.0, shard_timeout_s=20.0, shard_attempts=3)
    with Run(workdir, settings, progress=Progress(quiet=True)) as run:
        arguments = {"seconds": 0.02, "marker": marker}
        pool = PoolSettings(cpus=0.5)
        first = run.execute(
            Stage("first", NUMBERS, "first", Count, arguments, shards(ROWS, 10), {"v": 1}, pool)
        )  # fmt: skip
        planned = plan_shards(first, 15)
        inputs = {"first": first.fingerprint}
        run.execute(Stage("second", NUMBERS, "second", CountAsync, arguments, planned, inputs, pool))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] or None, sys.argv[3])
