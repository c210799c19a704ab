"""What the tests of faults share: drivers and clusters in processes of their own, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import psutil

from cluster.tables.gc import collect_all
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from tests.chaos.driver import Spec

ROOT = Path(__file__).parents[2]
LIMIT_S = 120.0


def until(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> float:
    """Waits for a condition; returns the seconds it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < limit_s, f"waited {limit_s} s for {what}"
        time.sleep(0.01)
    return time.monotonic() - begun


class Process:
    """A program in a process of its own, with everything it starts; all of it is ended when the context is left."""

    def __init__(self, *words: str, errors: Path, environment: dict[str, str] | None = None) -> None:
        self.words = words
        self.errors = errors
        self.environment = os.environ | (environment or {})
        self.seen: dict[int, psutil.Process] = {}
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.look()
        kill(self.process.pid)
        self.process.wait(LIMIT_S)
        self._end_leftovers()

    def start(self) -> None:
        """Starts it, or starts it again, while what its last life started may still be at work."""
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.words], cwd=ROOT, stdout=errors, stderr=errors, env=self.environment
            )

    def look(self) -> bool:
        """Notes the processes that it has started so far; whether it lives."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.seen[child.pid] = child
        return self.process.poll() is None

    def wait(self, code: int = 0) -> str:
        """Waits for its end with this exit code; returns what it said."""
        until(lambda: not self.look(), "its end")
        said = self.errors.read_text()
        assert self.process.wait() == code, f"exit code {self.process.returncode}\n{said[-4000:]}"
        return said

    def _end_leftovers(self) -> None:
        for process in self.seen.values():
            kill_process(process)
        psutil.wait_procs(list(self.seen.values()), timeout=10.0)
        self.seen.clear()


class Driver(Process):
    """The driver of two stages, see `tests/chaos/driver.py`."""

    def __init__(self, spec: Spec, environment: dict[str, str] | None = None) -> None:
        self.spec = spec
        path = f"{spec.marker}.json"
        super().__init__("tests.chaos.driver", path, errors=Path(f"{spec.marker}.stderr"), environment=environment)

    def start(self) -> None:
        """Starts it as the spec says now."""
        self.spec.save(Path(self.words[1]))
        self.before = set(self.seen) | self.pids()
        super().start()

    def hurry(self) -> None:
        """Lets the workers take no more time than they need."""
        Path(f"{self.spec.marker}.hurry").touch()

    def at_work(self) -> bool:
        """Whether a shard was begun in this life of the driver, or the driver has ended.

        Workers of its last life may still begin some: where it starts Ray itself, only its descendants count.
        """
        mine = self.pids() - self.before
        return not self.look() or bool(mine if self.spec.address else mine & self.seen.keys())

    def pids(self) -> set[int]:
        """Processes that began a shard."""
        return {pid for _, _, pid in begun(self.spec.marker)}


class Nodes:
    """A Ray cluster in a process of its own: a head without cores, and nodes that come and go."""

    PROGRAM = """
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
def pids(node):
    return [process.process.pid for each in node.all_processes.values() for process in each]
print(json.dumps([cluster.address, pids(cluster.head_node)]), flush=True)
for line in sys.stdin:
    print(json.dumps(pids(cluster.add_node(**json.loads(line)))), flush=True)
"""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.seen: dict[int, psutil.Process] = {}
        self.address, self.head = self._read()

    def __enter__(self) -> Nodes:
        return self

    def add(self, **arguments: Any) -> list[int]:
        """Adds a node; returns the ids of its own processes, to which its workers are children."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self.process.stdout
        answer = json.loads(self.process.stdout.readline())
        self.look()
        return answer

    def look(self) -> None:
        """Notes all processes of the cluster."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.seen[child.pid] = child

    def __exit__(self, *_: object) -> None:
        self.look()
        kill(self.process.pid)
        self.process.wait(LIMIT_S)
        for process in self.seen.values():
            kill_process(process)
        psutil.wait_procs(list(self.seen.values()), timeout=10.0)


def kill(pid: int) -> None:
    """SIGKILL, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_process(process: psutil.Process) -> None:
    """SIGKILL to just this process, not to a later one with its id."""
    with contextlib.suppress(psutil.Error):
        process.kill()


def kill_node(pids: Iterable[int], *, with_workers: bool) -> None:
    """Ends a node's own processes, and with them or after them its workers."""
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    workers = [child for process in processes for child in process.children(recursive=True)]
    for process in [*processes, *(workers if with_workers else [])]:
        kill_process(process)


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def begun(marker: str) -> list[tuple[str, str, int]]:
    """(table, shard, pid) of every beginning of a shard."""
    path = Path(marker)
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [(table, shard, int(pid)) for table, shard, pid, _ in map(str.split, lines)]


def in_work(spec: Spec, pids: set[int] | None = None) -> set[tuple[str, str]]:
    """Shards that are begun (by these processes) and have no commit record."""
    found = {(table, shard) for table, shard, pid in begun(spec.marker) if pids is None or pid in pids}
    return {(table, shard) for table, shard in found if not committed(spec.workdir, table, shard)}


def committed(workdir: str, table: str, shard: str) -> bool:
    return any(Path(workdir, table, "commits").glob(f"{shard}.*.json"))


def recovered(spec: Spec, shards: set[tuple[str, str]]) -> bool:
    """Whether these shards, which were in work when something died, are done."""
    return all(committed(spec.workdir, table, shard) for table, shard in shards)


def leftovers(workdir: str, table: str) -> list[str]:
    """Data files that no commit record names, whole ones and partly written ones."""
    storage = Storage(workdir)
    named = {path for path, _ in Table.open(storage, table).files()}
    there = {f"{table}/data/{path.name}" for path in Path(workdir, table, "data").glob("*")}
    return sorted(there - named)


def assert_nothing_lost(storage: Storage, rows: int, poison: int | None = None, by: str = "value") -> None:
    """Every number of both tables once and in order, the poison rejected, and no file that nothing names."""
    for path in ("first", "second"):
        table = Table.open(storage, path)
        assert table.complete
        expected = [str(number) for number in range(rows) if number != poison]
        found = table.read()
        lost, twice = set(expected) - set(found["id"].to_pylist()), len(found) - len(set(found["id"].to_pylist()))
        assert (lost, twice) == (set(), 0), f"{path}: lost {sorted(lost)}, {twice} twice"
        assert found["id"].to_pylist() == expected
        if by == "value":
            assert [str(value) for value in found["value"].to_pylist()] == expected
        rejected = len(table.rejects())
        assert rejected == (path == "first" and poison is not None)
        assert found.num_rows + rejected == table.plan.units
    collect_all(storage)
    for path in ("first", "second"):
        table = Table.open(storage, path)
        named = {file for file, _ in table.files()} | {
            file for commit in table.commits() for file in commit.reject_files
        }
        assert {file for file in storage.list(path) if "/data/" in file or "/rejects/" in file} == named
        if storage.local_path:
            assert not list(Path(storage.local_path, path).rglob("*#*"))
