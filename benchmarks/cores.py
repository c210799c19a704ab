"""Training on one core beside training on all: the same lists, in turns, each in processes of its own.

    python -m benchmarks.cores LISTS [--steps 6] [--turns 2]

LISTS is a workdir of a run or a file of scored lists. "One" is `training.cpus_per_rank=1`, which a machine without GPUs
once took for granted; "all" leaves the field empty. Printed are the medians over all steps but each training's first,
which pays for what the memory needs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import processor

CONTESTANTS = {"one": ["--set", "training.cpus_per_rank=1"], "all": []}


def train(lists: str, output: Path, steps: int, options: list[str]) -> list[dict[str, Any]]:
    """Lines of metrics of a training of so many steps, without the first."""
    settings = {
        "queries_per_step": 64, "list_length": 10, "max_steps": steps, "epochs": 100, "contrastive_weight": 0.0,
        "learning_rate": 5e-5, "evaluate_every": 10_000, "dev_queries": 1, "checkpoint_minutes": 1e6, "trackers": "[]",
    }  # fmt: skip
    command = [
        str(Path(sys.executable).with_name("listwise")), "train", "--lists", lists, "--student", "all-MiniLM-L6-v2",
        "--output", str(output), *options,
    ]  # fmt: skip
    command += [word for name, value in settings.items() for word in ("--set", f"training.{name}={value}")]
    environment = os.environ | {"RAY_worker_niceness": "0"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (output / "training" / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line][1:]


def main() -> None:
    """Prints a row for each contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--turns", type=int, default=2)
    given = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
    for turn in range(given.turns):
        for name, options in CONTESTANTS.items():
            with tempfile.TemporaryDirectory(prefix="lw-cores-") as folder:
                found[name] += train(given.lists, Path(folder) / f"{name}{turn}", given.steps, options)
    print(f"{os.cpu_count()} cores, {processor()}; {given.turns} turns of {given.steps} steps of 64 queries\n")
    print("| cores | tokens/s | cores used by the rank | : one core |\n|---|---|---|---|")
    rates = {name: median(line["tokens_per_s"] for line in lines) for name, lines in found.items()}
    for name, lines in found.items():
        used = median(line["cores_used"] for line in lines)
        print(f"| {name} | {rates[name]:,.0f} | {used:.2f} | {rates[name] / rates['one']:.2f}× |")


if __name__ == "__main__":
    main()
