"""A worker computes where its resources say: one that holds no GPU sees none."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from cluster.schemas import TableSchema
from cluster.settings import PoolSettings
from cluster.tables.plan import Shard
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task

SEEN = TableSchema("seen", pa.schema([("gpus", pa.string()), ("threads", pa.int64())]), "tests", "worker")


class Looks:
    """A worker that writes which GPUs its libraries would see, and how many threads they compute with."""

    def __init__(self) -> None:
        import os

        self.gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "all")

    def process(self, task: Task) -> Output:
        import torch

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
