"""A worker computes where its resources say: one that holds no GPU sees none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from cluster.schemas import TableSchema
from cluster.settings import PoolSettings
from cluster.tables.plan import Shard
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task

SEEN = TableSchema("seen", pa.schema([("gpus", pa.string()), ("threads", pa.int64())]), "tests", "worker")


class Looks:
    """A worker that writes which GPUs its libraries would see, and how many threads they compute with."""

    def __init__(self, wait_s: float = 0.0) -> None:
        self.wait_s = wait_s
        self.gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "all")

    def process(self, task: Task) -> Output:
        import torch

        time.sleep(self.wait_s)  # so that every worker gets a shard
        assert not torch.cuda.is_available()
        return Output(pa.table({"gpus": [self.gpus], "threads": [torch.get_num_threads()]}, schema=SEEN.schema))


def test_a_worker_without_gpus_sees_none_and_uses_the_cores_that_it_holds(run: Callable) -> None:
    table = run().execute(
        Stage(
            title="looking", table=SEEN, path="seen", worker=Looks, arguments={}, shards=[Shard("00000", 1)],
            fingerprint={}, pool=PoolSettings(workers=1, cpus=1),
        )
    )  # fmt: skip
    assert table.read().to_pylist() == [{"gpus": "", "threads": 1}]


ON_TWO = """
import json, sys
from cluster.machines import session
from cluster.run import Run
from cluster.settings import ClusterSettings, PoolSettings
from cluster.tables.plan import Shard
from cluster.watch.progress import Progress
from cluster.workers.stage import Stage
from tests.cluster.workers.test_held_devices import SEEN, Looks

session.connect(ClusterSettings(cpus=2))
seen = {}
for name, pool in {"one each": PoolSettings(workers=2, gpus=1), "none": PoolSettings(workers=1)}.items():
    with Run(sys.argv[1], ClusterSettings(cpus=2), progress=Progress(quiet=True)) as run:
        stage = Stage(title=name, table=SEEN, path=name.replace(" ", "-"), worker=Looks, arguments={"wait_s": 2.0},
                      shards=[Shard(f"{n:05d}", 1) for n in range(4)], fingerprint={}, pool=pool)
        seen[name] = sorted(set(run.execute(stage).read()["gpus"].to_pylist()))
session.disconnect()
print(json.dumps(seen))
"""


def test_a_worker_sees_the_gpu_that_it_holds_and_no_other(tmp_path: Path) -> None:
    """Ray is told of two GPUs that are not there: what a worker's libraries would see is all that matters."""
    (tmp_path / "run").mkdir()
    variables = os.environ | {"RAY_OVERRIDE_RESOURCES": '{"GPU": 2}', "PYTHONPATH": str(Path(__file__).parents[3])}
    variables.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-c", ON_TWO, str(tmp_path / "run")], env=variables, capture_output=True, text=True,
        timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"one each": ["0", "1"], "none": [""]}
