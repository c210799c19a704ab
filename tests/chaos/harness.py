"""The harness of the fault tests: drivers and clusters in processes of their own, and checks that nothing is lost."""

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
    """Waits until a condition holds; returns the seconds it took. `what` names it, for the message."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < limit_s, f"waited {limit_s} s for {what}"
        time.sleep(0.01)
    return time.monotonic() - begun


class Process:
    """A Python module in a process of its own. Leaving the context kills it and all processes that it started.

    Args:
        command: name of the module and its arguments.
        errors: file for its output.
        environment: variables in addition to those of this process.
    """

    def __init__(self, *command: str, errors: Path, environment: dict[str, str] | None = None) -> None:
        self.command = command
        self.errors = errors
        self.environment = os.environ | (environment or {})
        self.seen: dict[int, psutil.Process] = {}
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_running()
        kill(self.process.pid)
        self.process.wait(LIMIT_S)
        self._end_leftovers()

    def start(self) -> None:
        """Starts the program, also again after a death; processes of its earlier life may still be running."""
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command], cwd=ROOT, stdout=errors, stderr=errors, env=self.environment
            )

    def is_running(self) -> bool:
        """Whether the program runs. Each call also notes the processes that it has started so far."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.seen[child.pid] = child
        return self.process.poll() is None

    def wait(self, code: int = 0) -> str:
        """Waits until the program ends with this exit code; returns its output."""
        until(lambda: not self.is_running(), "its end")
        output = self.errors.read_text()
        assert self.process.wait() == code, f"exit code {self.process.returncode}\n{output[-4000:]}"
        return output

    def _end_leftovers(self) -> None:
        for process in self.seen.values():
            kill_process(process)
        psutil.wait_procs(list(self.seen.values()), timeout=10.0)
        self.seen.clear()


class Driver(Process):
    """The driver of two stages (`tests/chaos/driver.py`)."""

    def __init__(self, spec: Spec, environment: dict[str, str] | None = None) -> None:
        self.spec = spec
        path = f"{spec.marker}.json"
        super().__init__("tests.chaos.driver", path, errors=Path(f"{spec.marker}.stderr"), environment=environment)

    def start(self) -> None:
        """Starts the driver with the spec as it is now."""
        self.spec.save(Path(self.command[1]))
        self.before = set(self.seen) | self.pids()
        super().start()

    def hurry(self) -> None:
        """Makes the workers finish their shards without delay from now on."""
        Path(f"{self.spec.marker}.hurry").touch()

    def at_work(self) -> bool:
        """Whether a shard was begun in this life of the driver, or the driver has ended.

        Workers of an earlier life may still begin shards. So if the driver starts Ray itself, only its descendants
        count.
        """
        new_pids = self.pids() - self.before
        return not self.is_running() or bool(new_pids if self.spec.address else new_pids & self.seen.keys())

    def pids(self) -> set[int]:
        """Ids of the processes that began a shard."""
        return {pid for _, _, pid in begun(self.spec.marker)}


class Nodes:
    """A Ray cluster in a process of its own: a head without cores, and nodes that tests add and kill."""

    PROGRAM = """
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
def pids(node):
    return [process.process.pid for group in node.all_processes.values() for process in group]
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
        """Adds a node; returns the ids of the node's own processes, which are the parents of its workers."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self.process.stdout
        answer = json.loads(self.process.stdout.readline())
        self.note_processes()
        return answer

    def note_processes(self) -> None:
        """Notes all processes that the cluster has now, so that they can be killed at the end."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.seen[child.pid] = child

    def __exit__(self, *_: object) -> None:
        self.note_processes()
        kill(self.process.pid)
        self.process.wait(LIMIT_S)
        for process in self.seen.values():
            kill_process(process)
        psutil.wait_procs(list(self.seen.values()), timeout=10.0)


def kill(pid: int) -> None:
    """Sends SIGKILL to a process, if it still exists."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_process(process: psutil.Process) -> None:
    """Sends SIGKILL to exactly this process, not to a later one with the same id."""
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
    """(table, shard, pid) for every time that a shard was begun."""
    path = Path(marker)
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [(table, shard, int(pid)) for table, shard, pid, _ in map(str.split, lines)]


def in_work(spec: Spec, pids: set[int] | None = None) -> set[tuple[str, str]]:
    """Shards that were begun (by one of `pids`, if given) and have no commit record."""
    shards = {(table, shard) for table, shard, pid in begun(spec.marker) if pids is None or pid in pids}
    return {(table, shard) for table, shard in shards if not committed(spec.workdir, table, shard)}


def committed(workdir: str, table: str, shard: str) -> bool:
    return any(Path(workdir, table, "commits").glob(f"{shard}.*.json"))


def recovered(spec: Spec, shards: set[tuple[str, str]]) -> bool:
    """Whether all these shards, which were in work when something died, are committed now."""
    return all(committed(spec.workdir, table, shard) for table, shard in shards)


def leftovers(workdir: str, table: str) -> list[str]:
    """Data files that no commit record names, complete and half-written ones."""
    storage = Storage(workdir)
    named = {path for path, _ in Table.open(storage, table).files()}
    existing = {f"{table}/data/{path.name}" for path in Path(workdir, table, "data").glob("*")}
    return sorted(existing - named)


def assert_nothing_lost(storage: Storage, rows: int, poison: int | None = None, by: str = "value") -> None:
    """Checks both tables: each number occurs once and in order, the poison is rejected, and records name all files."""
    for path in ("first", "second"):
        table = Table.open(storage, path)
        assert table.complete
        expected = [str(number) for number in range(rows) if number != poison]
        content = table.read()
        lost, twice = set(expected) - set(content["id"].to_pylist()), len(content) - len(set(content["id"].to_pylist()))
        assert (lost, twice) == (set(), 0), f"{path}: lost {sorted(lost)}, {twice} twice"
        assert content["id"].to_pylist() == expected
        if by == "value":
            assert [str(value) for value in content["value"].to_pylist()] == expected
        rejected = len(table.rejects())
        assert rejected == (path == "first" and poison is not None)
        assert content.num_rows + rejected == table.plan.units
    collect_all(storage)
    for path in ("first", "second"):
        table = Table.open(storage, path)
        named = {file for commit in table.commits() for file in commit.named}
        kept = {file for folder in ("data", "rejects", "dropped") for file in storage.list(f"{path}/{folder}")}
        assert kept == named
        if storage.local_path:
            assert not list(Path(storage.local_path, path).rglob("*#*"))
