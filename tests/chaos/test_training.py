"""Deaths in training: a rank or a node is killed, and training continues from the newest whole checkpoint."""

from __future__ import annotations

import contextlib
import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.chaos.conftest import FULL
from tests.chaos.harness import Nodes, Process, alive, kill, kill_node, until
from tests.chaos.ledger import note
from tests.chaos.training import STEPS


def steps(workdir: Path) -> list[tuple[int, float]]:
    """(step, loss) in the order in which they were written."""
    file = workdir / "training" / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    records = [json.loads(line) for line in lines]
    return [(record["step"], record["loss"]) for record in records if "loss" in record]


def ranks(node: list[int]) -> list[int]:
    """Ids of the processes on this node that are ranks."""
    pids = []
    for pid in node:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(pid).children(recursive=True):
                if "RayTrainWorker" in " ".join(child.cmdline()):
                    pids.append(child.pid)
    return pids


def continues(workdir: Path, old: list[int], reached: int) -> bool:
    """Whether the old ranks are dead and training has come further than this step."""
    return not any(alive(pid) for pid in old) and steps(workdir)[-1][0] > reached


def damage(dice: random.Random, workdir: Path) -> str:
    """Cuts, empties or changes a file of the newest checkpoint; returns what was done."""
    newest = max((workdir / "training" / "checkpoints").glob("step-*"))
    file = dice.choice(sorted(newest.iterdir()))
    content, how = bytearray(file.read_bytes()), dice.choice(["cut", "emptied", "one bit flipped"])
    if how == "one bit flipped":
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    file.write_bytes(content[: dice.randrange(len(content))] if how == "cut" else content if how != "emptied" else b"")
    return f"{newest.name}/{file.name} {how}"


@pytest.mark.slow
@pytest.mark.skipif(not FULL, reason="in `make chaos` only: it takes a minute")
@pytest.mark.timeout(1200)
def test_a_training_whose_rank_or_node_is_killed_continues_from_its_checkpoint(
    dice: random.Random, tmp_path: Path, nodes: Nodes, tiny_encoder: str, faults: Callable[[list[str]], list[str]]
) -> None:
    node_pids = [nodes.add(num_cpus=1) for _ in range(2)]
    workdir = tmp_path / "run"
    times, what_was_done = {}, "no damage"
    with Process("tests.chaos.training", str(workdir), nodes.address, tiny_encoder, errors=tmp_path / "err") as driver:
        of_a_rank = dice.choice(["training rank killed", "checkpoint damaged, rank killed"])
        for fault in faults([of_a_rank, "training node killed"]):
            before = len(steps(workdir))
            until(lambda before=before: len(steps(workdir)) > before + 2 or not driver.is_running(), "three steps", 300)
            time.sleep(dice.uniform(0.0, 0.5))
            nodes_with_ranks = [(node, pids) for node in node_pids if (pids := ranks(node))]
            reached = max(step for step, _ in steps(workdir))
            assert nodes_with_ranks and driver.is_running(), driver.errors.read_text()[-3000:]
            if fault.startswith("checkpoint damaged"):
                what_was_done = damage(dice, workdir)
            if fault != "training node killed":
                kill(dice.choice([pid for _, pids in nodes_with_ranks for pid in pids]))
            else:
                kill_node(dice.choice(nodes_with_ranks)[0], with_workers=dice.random() < 0.5)
            old = [pid for _, pids in nodes_with_ranks for pid in pids]
            assert reached < STEPS, "training ended before anything was killed"
            what = f"other ranks, {what_was_done}, step {reached}, alive {[pid for pid in old if alive(pid)]}"
            times[fault] = until(
                lambda old=old, reached=reached: not driver.is_running() or continues(workdir, old, reached), what, 300
            )
            assert driver.is_running() or driver.process.wait() == 0, driver.errors.read_text()[-5000:]
            told = r"training: rank \d+ has failed: .*?The ranks start again from the newest checkpoint"
            until(
                lambda told=told: re.search(told, " ".join(driver.errors.read_text().split())), "the failure to be told"
            )
        driver.wait()
    written = steps(workdir)
    assert {step for step, _ in written} == set(range(1, STEPS + 1))
    first: dict[int, float] = {}
    for step, loss in written:
        assert loss == pytest.approx(first.setdefault(step, loss), rel=1e-4), "a step done again is the same step"
    assert (workdir / "model" / "modules.json").exists()
    assert json.loads((workdir / "training" / "record.json").read_text())["steps"] == STEPS
    for fault, seconds in times.items():
        note(fault, seconds)
