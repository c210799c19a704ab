"""Things are killed with SIGKILL at random moments; afterwards every planned unit is in the output exactly once.

The seed is printed with every failure; `CHAOS_SEED=N pytest tests/chaos` repeats it, `CHAOS_ROUNDS=N` does more rounds.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.gc import collect_all
from cluster.storage import Storage
from cluster.tables import Table
from tests.chaos.driver import ROWS

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "1"))
SEED = int(os.environ.get("CHAOS_SEED", str(time.time_ns() % 1_000_000)))
LIMIT_S = 90.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(params=range(ROUNDS))
def dice(request: pytest.FixtureRequest) -> random.Random:
    seed = SEED + request.param
    print(f"CHAOS_SEED={seed}")
    return random.Random(seed)


class Driver:
    """The driver in a process and a session of its own, with everything it starts."""

    def __init__(self, folder: Path, address: str = "") -> None:
        self.folder, self.address = folder, address
        self.marker = folder / "marker"
        self.process = self._start()
        self.seen: dict[int, psutil.Process] = {}

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.chaos.driver", str(self.folder / "run"), self.address, str(self.marker)]
        return subprocess.Popen(command, cwd=ROOT, stderr=(self.folder / "stderr").open("ab"))

    def restart(self) -> None:
        """Starts it again, once what its last life started is gone."""
        self.process.wait(LIMIT_S)
        self._end_leftovers()
        self.process = self._start()

    def wait(self) -> None:
        """Waits for success."""
        assert self.process.wait(LIMIT_S) == 0, (self.folder / "stderr").read_text()[-3000:]
        self._end_leftovers()

    def at_work(self) -> bool:
        """Whether a first shard was begun; notes what the driver has started so far."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.seen[child.pid] = child
        return self.marker.exists()

    def workers(self) -> list[int]:
        """Ids of worker processes that did something and live."""
        lines = self.marker.read_text().splitlines() if self.marker.exists() else []
        pids = {int(line.split()[0]) for line in lines if line}
        return sorted(pid for pid in pids if psutil.pid_exists(pid) and _alive(pid))

    def kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _end_leftovers(self) -> None:
        _, alive = psutil.wait_procs(list(self.seen.values()), timeout=5.0)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.seen.clear()


def _alive(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def until(condition: object, what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, f"waited {LIMIT_S} s for {what}"
        time.sleep(0.02)


def assert_nothing_lost(folder: Path) -> None:
    """Every unit once, in order; and nothing but what commit records name."""
    storage = Storage.open(str(folder / "run"))
    for path in ("first", "second"):
        table = Table.open(storage, path)
        assert table.complete
        assert table.rejects() == []
        assert table.read()["value"].to_pylist() == list(range(ROWS))
        assert all(
            commit.accounted == shard.units for commit, shard in zip(table.commits(), table.plan.shards, strict=True)
        )
    collect_all(storage)
    for path in ("first", "second"):
        table = Table.open(storage, path)
        assert storage.list(f"{path}/data") == sorted(file for file, _ in table.files())


def test_workers_that_are_killed_lose_nothing(tmp_path: Path, dice: random.Random) -> None:
    driver = Driver(tmp_path)
    until(driver.at_work, "the first shard")
    for _ in range(4):
        time.sleep(dice.uniform(0.0, 0.5))
        if driver.process.poll() is None and (workers := driver.workers()):
            driver.kill(dice.choice(workers))
    driver.wait()
    assert_nothing_lost(tmp_path)


def test_a_driver_that_is_killed_again_and_again_loses_nothing(tmp_path: Path, dice: random.Random) -> None:
    driver = Driver(tmp_path)
    for _ in range(3):
        driver.marker.unlink(missing_ok=True)
        until(lambda: driver.at_work() or driver.process.poll() is not None, "the first shard")
        time.sleep(dice.uniform(0.0, 0.8))
        driver.at_work()
        driver.kill(driver.process.pid)
        driver.restart()
    driver.wait()
    assert_nothing_lost(tmp_path)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[str, list[int]]]:
    """A Ray cluster of a head without cores and two workers' nodes; yields its address and the raylets' process ids."""
    code = (
        "import sys; from ray.cluster_utils import Cluster\n"
        "c = Cluster(initialize_head=True, head_node_args={'num_cpus': 0})\n"
        "nodes = [c.add_node(num_cpus=1) for _ in range(2)]\n"
        "def raylet(n): return [p.process.pid for p in n.all_processes['raylet']][0]\n"
        "print(c.address, *[raylet(n) for n in nodes], flush=True)\n"
        "sys.stdin.readline(); c.shutdown()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin and process.stdout
    address, *raylets = process.stdout.readline().split()
    yield address, [int(pid) for pid in raylets]
    with contextlib.suppress(BrokenPipeError):
        process.communicate("\n", timeout=60)


def test_a_node_that_is_killed_loses_nothing(tmp_path: Path, dice: random.Random, nodes: tuple[str, list[int]]) -> None:
    address, raylets = nodes
    driver = Driver(tmp_path, address)
    until(driver.at_work, "the first shard")
    time.sleep(dice.uniform(0.0, 1.0))
    driver.kill(dice.choice(raylets))
    driver.wait()
    assert_nothing_lost(tmp_path)
