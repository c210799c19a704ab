"""Trainings with shuffled batches against trainings with batches by topic, whose lists share passages.

    python -m benchmarks.topics --run runs/demo [--topic-queries 32] [--seeds 0 1] [--set training.max_steps=15]

It trains once for every order and seed, with the recipe of a run, on the lists of that run. The run's workdir is not
changed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

SECTIONS = ("student", "training", "cluster")


def train(run: Path, output: Path, changes: list[str]) -> tuple[list[dict[str, Any]], float]:
    """Runs one training; returns the lines of its metrics.jsonl, and its seconds."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    own = [f"{name}={json.dumps(recipe[name])}" for name in SECTIONS if name != "student"]
    own += [f"student.{key}={json.dumps(value)}" for key, value in recipe["student"].items() if key != "model"]
    command = [sys.executable, "-m", "launcher.cli", "train", "--lists", str(run), "--output", str(output)]
    command += ["--student", recipe["student"]["model"]]
    command += [word for change in [*own, *changes] for word in ("--set", change)]
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    lines = (output / "training" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], time.monotonic() - start


def row(name: str, trainings: list[list[dict[str, Any]]]) -> str:
    """The line of one order in the table: means over the seeds, and the dev figures of each seed."""
    steps = [line for lines in trainings for line in lines if "loss" in line]
    dev = [[line for line in lines if "dev_loss" in line] for lines in trainings]
    best = [max(line["dev_ndcg@10"] for line in lines) for lines in dev]
    least = [min(line["dev_loss"] for line in lines) for lines in dev]
    mean = {key: statistics.mean(line[key] for line in steps) for key in ("repeats", "queries_per_s", "tokens_per_s")}
    return (
        f"| {name} | {mean['repeats']:.2f}× | {mean['queries_per_s']:.2f} | {mean['tokens_per_s']:,.0f} | "
        f"{dev[0][0]['dev_ndcg@10']:.4f} → {', '.join(f'{value:.4f}' for value in best)} | "
        f"{dev[0][0]['dev_loss']:.4f} → {', '.join(f'{value:.4f}' for value in least)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--topic-queries", type=int, default=32)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", dest="changes", action="append", default=[])
    options = parser.parse_args()
    if not (options.run / "recipe.yaml").is_file():
        parser.exit(0, f"no run at {options.run}: name one with --run\n")
    columns = ("order", "repeats", "queries/s", "tokens/s", "dev nDCG@10, base → best by seed", "dev loss")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    with tempfile.TemporaryDirectory() as folder:
        for name, count in (("shuffled", 1), (f"topics of {options.topic_queries}", options.topic_queries)):
            trainings = []
            for seed in options.seeds:
                order = [f"training.topic_queries={count}", f"training.seed={seed}"]
                lines, _ = train(options.run, Path(folder) / f"{count}-{seed}", [*options.changes, *order])
                trainings.append(lines)
            print(row(name, trainings), flush=True)


if __name__ == "__main__":
    main()
