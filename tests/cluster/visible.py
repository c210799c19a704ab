"""A driver of a stage with a slow worker and a row that cannot be done.

python -m tests.cluster.visible WORKDIR METRICS_PORT
"""

from __future__ import annotations

import sys

from cluster.run import Run
from cluster.settings import ClusterSettings, PoolSettings
from cluster.watch.progress import Progress
from cluster.workers.stage import Stage
from tests.cluster.example_workers import NUMBERS, OneSlow, shards

if __name__ == "__main__":
    workdir, port = sys.argv[1:]
    settings = ClusterSettings(cpus=2, metrics_port=int(port), max_reject_fraction=0.5)
    arguments = {"seconds": 0.1, "marker": f"{workdir}.marker", "poison": {3: "reject"}}
    pool = PoolSettings(cpus=0.5, workers=3)
    with Run(workdir, settings, progress=Progress()) as run:
        run.execute(Stage("numbers", NUMBERS, "scores/numbers", OneSlow, arguments, shards(20_000, 10), {"v": 1}, pool))
