"""The cores that a stage uses, beside those that it holds."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pyarrow as pa
import pytest

from cluster.schemas import TableSchema
from cluster.settings import PoolSettings
from cluster.tables.plan import Shard
from cluster.watch.status import status
from cluster.workers.core_clock import CoreClock
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task

DONE = TableSchema("work", pa.schema([("products", pa.int64())]), "tests", "product")


SPIN = "import time\nwhile time.process_time() < 1.0: pass"


class Works:
    """A worker that computes for a second of processor time, in this process or in a child, or only waits."""

    def __init__(self, how: str) -> None:
        self.how = how

    def process(self, task: Task) -> Output:
        if self.how == "waits":
            time.sleep(1.0)
        elif self.how == "in a child":
            subprocess.run([sys.executable, "-c", SPIN], check=True)
        else:
            compute(1.0)
        return Output(pa.table({"products": [1]}, schema=DONE.schema))


def compute(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.mark.parametrize(
    ("how", "least", "most"), [("computes", 2.0, 4.0), ("in a child", 2.0, 4.0), ("waits", 0, 1.0)]
)
def test_a_stage_shows_what_it_holds_and_what_it_uses(run: Callable, how: str, least: float, most: float) -> None:
    opened = run()
    opened.execute(
        Stage(
            title="working", table=DONE, path="work", worker=Works, arguments={"how": how},
            shards=[Shard(f"{number:05d}", 1) for number in range(2)], fingerprint={},
            pool=PoolSettings(workers=1, cpus=1),
        )
    )  # fmt: skip
    (stage,) = status(opened.storage)
    assert least <= stage["cpu_s"] <= most
    assert stage["held_s"] >= 2.0, "two tasks of at least a second each"
    assert stage["cores_held"] == 1
    assert stage["cores_used"] == pytest.approx(stage["cpu_s"] / stage["held_s"], abs=0.02)


def test_readings_add_up_and_are_never_negative() -> None:
    clock, before = CoreClock(), time.process_time()
    compute(0.3)
    first, second = clock.take(), clock.take()
    assert first[0] >= 0.2
    assert first[0] + second[0] <= time.process_time() - before + 0.05
    assert second[0] >= 0
