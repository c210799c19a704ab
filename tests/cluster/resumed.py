"""A driver that continues a table which it finds planned, and says what Ray it started."""

from __future__ import annotations

import json
import os
import sys

from cluster.plan import Plan
from cluster.run import Run
from cluster.settings import ClusterSettings, PoolSettings
from cluster.stage import Stage
from cluster.watch.progress import Progress
from tests.cluster.workers import NUMBERS, Count, shards

if __name__ == "__main__":
    assert "ray" not in sys.modules
    with Run(sys.argv[1], ClusterSettings(cpus=1), progress=Progress(quiet=True)) as run:
        stage = Stage("numbers", NUMBERS, "numbers", Count, {}, shards(20, 10), {"v": 1}, PoolSettings())
        run.storage.create("numbers/plan.json", Plan.new(NUMBERS, stage.shards, stage.fingerprint).to_bytes())
        rows = run.execute(stage).num_rows
        import ray

        (node,) = ray.nodes()
        token = os.environ.get("RAY_AUTH_TOKEN", "")
        print(json.dumps({"rows": rows, "address": node["NodeManagerAddress"], "token": len(token)}))
