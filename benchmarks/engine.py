"""The cost of the engine itself: driver time and memory per shard, resume, status, and the speed of 1 to 16 workers.

    python -m benchmarks.engine [--shards 20000] [--rows 10000000] [--write docs/benchmarks.md]

The workers only make rows, so every figure is a cost of the engine. With `--write` the table replaces the section
"Engine" of a Markdown file.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pyarrow as pa

from cluster.run import Run
from cluster.schemas import TableSchema
from cluster.settings import ClusterSettings, PoolSettings
from cluster.tables.plan import Shard
from cluster.tables.storage import Storage
from cluster.watch.progress import Progress
from cluster.watch.status import status
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task

NUMBERS = TableSchema("numbers", pa.schema([("n", pa.int64())]), "benchmarks", "row")


class NoOpWorker:
    """A worker that sleeps, then makes the rows of its task."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def process(self, task: Task) -> Output:
        time.sleep(self.seconds)
        return Output(pa.table({"n": range(task.stop - task.start)}, NUMBERS.schema))


class Memory(threading.Thread):
    """A thread that measures the peak resident memory of this process, in MiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0

    def run(self) -> None:
        process = psutil.Process()
        while True:
            self.peak = max(self.peak, process.memory_info().rss / 2**20)
            time.sleep(0.2)


def stage(path: str, shards: int, rows_each: int, pool: PoolSettings, seconds: float = 0.0) -> Stage:
    planned = [Shard(f"{i:05d}", rows_each) for i in range(shards)]
    return Stage(path, NUMBERS, path, NoOpWorker, {"seconds": seconds}, planned, {"shards": shards}, pool)


def many_shards(workdir: str, shards: int, rows: int) -> list[tuple[str, str, str]]:
    """Figures of a stage with many small shards, of its resume and of its status."""
    memory = Memory()
    settings = ClusterSettings(cpus=os.cpu_count())
    with Run(workdir, settings, progress=Progress()) as run:
        run.connect()
        memory.start()
        before = psutil.Process().memory_info().rss / 2**20
        work = stage("many", shards, rows // shards, PoolSettings())
        start, cpu_start = time.monotonic(), time.process_time()
        run.execute(work)
        seconds, cpu_s = time.monotonic() - start, time.process_time() - cpu_start
    start = time.monotonic()
    Run(workdir, settings).execute(work)
    resume_s = time.monotonic() - start
    start = time.monotonic()
    status(Storage(workdir))
    status_s = time.monotonic() - start
    return [
        (f"{rows:,} rows in {shards:,} shards, no-op worker", f"{seconds:.0f} s", f"{shards / seconds:.0f} shards/s"),
        ("driver CPU time per shard", f"{1000 * cpu_s / shards:.2f} ms", "under 3 ms"),
        ("driver memory, peak (before the stage)", f"{memory.peak:.0f} MiB ({before:.0f} MiB)", "under 500 MiB"),
        ("execute of the finished stage", f"{resume_s:.2f} s", "seconds"),
        ("status of the workdir", f"{status_s:.2f} s", "under 2 s"),
    ]


def scaling(workdir: str) -> list[tuple[str, str, str]]:
    """Figures of 1 to 16 workers with an eighth of a core each; 24 shards per worker sleep half a second each."""
    figures = []
    with Run(workdir, ClusterSettings(cpus=2), progress=Progress()) as run:
        run.connect()
        run.execute(stage("warm", 4, 1, PoolSettings(cpus=0.125)))
        rate_of_one = 0.0
        for workers in (1, 2, 4, 8, 16):
            run.execute(stage(f"sleep{workers}", 24 * workers, 10, PoolSettings(workers=workers, cpus=0.125), 0.5))
            rate = _rate(run, f"sleep{workers}")
            rate_of_one = rate_of_one or rate
            share = f"{rate / rate_of_one / workers:.0%} of linear"
            figures.append((f"{workers} workers, shards that sleep 0.5 s", f"{rate:.1f} shards/s", share))
    return figures


def _rate(run: Run, name: str) -> float:
    """Shards per second after every worker is ready, because the start of processes is a cost of the stage."""
    lines = (Path(run.storage.url) / f"logs/{name}.log").read_text().splitlines()
    ready = max(_seconds(line) for line in lines if line.endswith(" ready"))
    done = [at for line in lines if " done:" in line and (at := _seconds(line)) > ready]
    return len(done) / (done[-1] - ready)


def _seconds(line: str) -> float:
    return float(line.split(" ", 1)[0].split("+")[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = many_shards(f"{folder}/many", arguments.shards, arguments.rows) + scaling(f"{folder}/sleep")
    command = f"python -m benchmarks.engine --shards {arguments.shards} --rows {arguments.rows}"
    lines = [
        "## Engine",
        "",
        f"`{command}` on {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}:",
        "",
        "| what | measured | wanted |",
        "|---|---|---|",
        *(f"| {what} | {measured} | {wanted} |" for what, measured, wanted in figures),
        "",
    ]
    print("\n".join(lines))
    if arguments.write:
        text = arguments.write.read_text() if arguments.write.exists() else "# Measurements\n\n"
        rest = re.sub(r"## Engine\n.*?(?=\n## |\Z)", "", text, flags=re.S).rstrip()
        arguments.write.write_text(rest + "\n\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
