"""What a run costs as its corpus grows: time, memory of every process, disk, and requests, stage by stage.

    python -m benchmarks.scale [--sizes 10000,100000,1000000] [--queries 6] [--index ivf] [--until STAGE]

Every size runs in its own process: corpus, query log of `--queries` queries a passage, embeddings by a small random
encoder, candidates of BM25 and of the encoder, scores of both, lists, two training steps and the evaluation. The
memory of a process is what it has for itself (USS), every half second; pages of mapped files that processes share are
in the column "shared". The exponent is that of the time between two sizes: 1 is proportional.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import shutil
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import processor
from benchmarks.zipf_corpus import ZipfCorpus, save_encoder

EVERY_S = 0.5
MIB, GIB = 2**20, 2**30
RECIPE = {
    "name": "scale",
    "generation": {"engine": "extractive", "query_types": ["keywords"]},
    "lists": {"length": 10, "dev_fraction": 0.001},
    "training": {
        "queries_per_step": 64, "list_length": 10, "max_steps": 2, "evaluate_every": 2, "dev_queries": 64,
        "student_temperature": 0.05, "teacher_temperature": 0.05,
    },
    "teachers": {"student": {"kind": "bi_encoder"}, "bm25": {"kind": "bm25"}},
}  # fmt: skip


def prepare(folder: str, passages: int, queries: float) -> None:
    """Writes the inputs of a size."""
    corpus = ZipfCorpus(passages)
    corpus.write(Path(folder), queries)
    save_encoder(Path(folder), corpus.words)


class Watch(threading.Thread):
    """Measures this process and its descendants, for the part of the run that is at work."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.part = ""
        self.driver: Counter[str] = Counter()
        self.worker: Counter[str] = Counter()
        self.shared: Counter[str] = Counter()

    def run(self) -> None:
        own = psutil.Process()
        while True:
            part, workers = self.part, 0
            for process in [own, *own.children(recursive=True)]:
                try:
                    memory = process.memory_full_info()
                    name = process.cmdline()[0] if process.pid != own.pid else ""
                except (psutil.Error, IndexError):
                    continue
                peak = self.driver if process.pid == own.pid else self.worker
                if process.pid == own.pid or name.startswith("ray::"):
                    peak[part] = max(peak[part], memory.uss)
                    self.shared[part] = max(self.shared[part], memory.rss - memory.uss)
                workers += 1
            time.sleep(EVERY_S)


def measure(folder: str, index: str, last: str, answer: Any) -> None:
    """Runs the inputs in a folder, and sends what each part cost."""
    from cluster.run import Run
    from cluster.tables.storage import Storage
    from cluster.watch.progress import Progress
    from launcher import pipeline
    from launcher.recipe import Recipe

    path = Path(folder)
    encoder = path / "encoder"
    recipe = Recipe.model_validate(RECIPE | {
        "workdir": str(path / "run"),
        "student": {"model": str(encoder), "max_query_tokens": 16, "max_passage_tokens": 64},
        "corpus": {
            "path": str(path / "corpus.jsonl"), "query_log": str(path / "log.jsonl"), "max_sources": 100,
            "exclude_judged_sources": False, "language": "en",
        },
        "retrieval": {
            "retrievers": {"student": {"kind": "dense", "index": index}, "bm25": {"kind": "bm25"}}, "depth": 20,
            "min_candidates": 10,
        },
        "evaluation": {"dataset": str(path / "beir"), "split": "test"},
    })  # fmt: skip
    watch, seconds, requests = Watch(), defaultdict(float), Counter()
    execute, in_process = Run.execute, Run.execute_in_process
    counted = {name: getattr(Storage, name) for name in ("get", "put", "create", "list", "exists", "remove", "folders")}
    for name, method in counted.items():

        def call(self, *arguments, _method=method, **named):
            requests[watch.part] += 1
            return _method(self, *arguments, **named)

        setattr(Storage, name, call)

    def timed(self, stage, *arguments, **named):
        title = stage if isinstance(stage, str) else stage.title
        watch.part, begun = title, time.monotonic()
        try:
            return (in_process if isinstance(stage, str) else execute)(self, stage, *arguments, **named)
        finally:
            seconds[title] += time.monotonic() - begun
            watch.part = "between stages"

    Run.execute = Run.execute_in_process = timed
    watch.part = "between stages"
    watch.start()
    begun = time.monotonic()
    pipeline.execute(recipe, last, progress=Progress(quiet=True))
    total = time.monotonic() - begun
    seconds["between stages"] = total - sum(seconds.values())
    Run.execute, Run.execute_in_process = execute, in_process
    begun = time.monotonic()
    pipeline.execute(recipe, last, progress=Progress(quiet=True))
    seconds["the same command again"] = time.monotonic() - begun
    disk = {entry.name: _bytes(entry) for entry in (path / "run").iterdir()}
    answer.send({
        "seconds": dict(seconds), "driver": dict(watch.driver), "worker": dict(watch.worker),
        "shared": dict(watch.shared), "requests": dict(requests), "disk": disk, "total": total,
    })  # fmt: skip


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def table(found: dict[int, dict[str, Any]]) -> str:
    """Markdown: a row for each part and size."""
    sizes = sorted(found)
    parts = list(dict.fromkeys(part for size in sizes for part in found[size]["seconds"]))
    heads = ["part", "passages", "s", "passages/s", "exponent", "driver, MiB", "largest worker, MiB", "shared, MiB"]
    lines = [f"| {' | '.join([*heads, 'requests of the driver'])} |", f"|{'---|' * (len(heads) + 1)}"]
    for part in parts:
        before: tuple[int, float] | None = None
        for size in sizes:
            one = found[size]
            if part not in one["seconds"]:
                continue
            spent = one["seconds"][part]
            exponent = "" if before is None else f"{math.log(spent / before[1]) / math.log(size / before[0]):.2f}"
            before = (size, spent)
            memory = [f"{one[kind].get(part, 0) / MIB:,.0f}" for kind in ("driver", "worker", "shared")]
            cells = [part, f"{size:,}", f"{spent:.1f}", f"{size / spent:,.0f}", exponent, *memory]
            lines.append(f"| {' | '.join([*cells, format(one['requests'].get(part, 0), ',')])} |")
    lines.append("")
    for size in sizes:
        largest = sorted(found[size]["disk"].items(), key=lambda one: -one[1])
        disk = ", ".join(f"{name} {count / MIB:,.0f}" for name, count in largest if count > MIB)
        lines.append(f"{size:,} passages: {found[size]['total']:.0f} s; MiB on disk: {disk}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000,1000000", help="passages")
    parser.add_argument("--queries", type=float, default=6.0, help="queries a passage in the log")
    parser.add_argument("--index", default="exact", choices=["exact", "ivf", "hnsw"])
    parser.add_argument("--until", default="evaluation", help="the last stage")
    parser.add_argument("--folder", help="for corpora and runs; they stay there")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found: dict[int, dict[str, Any]] = {}
    for size in map(int, options.sizes.split(",")):
        folder = tempfile.mkdtemp(dir=options.folder)
        maker = context.Process(target=prepare, args=(folder, size, options.queries))
        maker.start()
        maker.join()
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=measure, args=(folder, options.index, options.until, sender))
        process.start()
        sender.close()
        try:
            found[size] = receiver.recv()
        except EOFError:
            print(f"{size:,} passages: the run failed; its folder is {folder}")
            continue
        finally:
            process.join()
        if options.folder is None:
            shutil.rmtree(folder)
        else:
            (Path(folder) / "found.json").write_text(json.dumps(found[size]))
        print(
            f"{processor()}; {options.queries:g} queries a passage, {options.index} search\n\n{table(found)}\n",
            flush=True,
        )


if __name__ == "__main__":
    main()
