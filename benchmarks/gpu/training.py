"""Whether a training runs, learns, and continues to the same weights after a stop."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.gpu.material import make_lists
from benchmarks.gpu.parts import Findings, Machine
from benchmarks.gpu.shapes import save_encoder, shapes
from benchmarks.gpu.speed import bench
from cluster.schemas import LISTS, PASSAGES, TableSchema
from cluster.tables.commit import Commit, publish, put_rows
from cluster.tables.plan import Plan, Shard
from cluster.tables.storage import Storage
from distill.settings.encoders import StudentSettings
from distill.settings.training import TrainingSettings
from distill.training.deepspeed_engine import step_optimizer
from distill.training.job import TrainingJob

DEV_EVERY = 8  # each so many'th query is of the dev split
PLAIN_STEPS = 6  # on the same lists, where DeepSpeed is not installed
SAME = 1e-3  # largest difference of two weights that were trained by kernels in another order


def training(machine: Machine, findings: Findings) -> None:
    """Trains with DeepSpeed through `distill.training.trainer`, once whole and once stopped in the middle."""
    if find_spec("deepspeed") is None:
        _plain_steps(machine, findings)
        return
    import torch

    from distill.training.stop import TrainingStopped, stop_file
    from distill.training.trainer import train

    job = _job(machine)
    losses: list[float] = []
    record = train(job, lambda line: losses.append(line["loss"]) if "loss" in line else None)
    findings.figure("steps", record["steps"])
    findings.figure("first_loss", losses[0])
    findings.figure("last_loss", losses[-1])
    findings.check("it learns", losses[-1] < losses[0])
    findings.check("every loss is a number", bool(np.isfinite(losses).all()))

    stopped = replace(job, output=f"{job.output}-stopped", model=f"{job.model}-stopped")
    half = record["total_steps"] // 2

    def ask(line: dict[str, Any]) -> None:
        if line.get("step") == half and "loss" in line:
            stop_file(Path(stopped.output)).touch()

    try:
        train(stopped, ask)
        findings.check("a training that is asked to stop does so", False)
    except TrainingStopped:
        findings.check("a training that is asked to stop does so", True)
    train(stopped)
    steps = [json.loads(line) for line in Path(stopped.output, "metrics.jsonl").read_text().splitlines()]
    done = [line["step"] for line in steps if "loss" in line]
    findings.check("no step is done twice", done == list(range(1, record["total_steps"] + 1)))
    apart = _apart(Path(job.model), Path(stopped.model))
    findings.figure("resumed_weights_apart", apart)
    findings.note("resumed to the bit" if apart == 0 else "resumed, but not to the bit")
    findings.check("the resumed training ends with the same weights", apart < SAME)
    if machine.device == "cuda":
        findings.figure("memory_peak_mib", torch.cuda.max_memory_allocated() / 2**20)


def _plain_steps(machine: Machine, findings: Findings) -> None:
    """Steps on the same lists with the plain engine: whether they learn."""
    findings.note("DeepSpeed is not installed: steps with AdamW in torch alone, without checkpoints")
    measured = bench(machine)
    prepared = measured.prepare(16 if machine.dry else 256, "shuffled")
    losses = []
    for _ in range(PLAIN_STEPS):
        losses.append(measured.stepper.run(prepared).loss)
        step_optimizer(measured.engine)
    findings.figure("first_loss", losses[0])
    findings.figure("last_loss", losses[-1])
    findings.check("it learns", losses[-1] < losses[0])


def _job(machine: Machine) -> TrainingJob:
    shape = shapes(machine.dry)["bert-base"]
    passages, queries, length, tokens = (120, 64, 8, 48) if machine.dry else (4_000, 1_024, 16, 256)
    model = save_encoder(shape, machine.folder / "trained", tokens)
    workdir = machine.folder / "run"
    _write_tables(workdir, passages, queries, length, shape.words, tokens)
    per_step = 14 if machine.dry else 128
    settings = TrainingSettings(
        queries_per_step=per_step, list_length=length, epochs=2, learning_rate=1e-4, warmup_steps=2, trackers=[],
        patience=100, evaluate_every=4, micro_batch_tokens=1_024 if machine.dry else 16_384,
    )  # fmt: skip
    student = StudentSettings(model=model, max_query_tokens=24, max_passage_tokens=tokens)
    return TrainingJob(settings, student, str(workdir), str(workdir / "training"), str(workdir / "model"))


def _write_tables(workdir: Path, passages: int, queries: int, length: int, words: int, tokens: int) -> None:
    """Passages and lists as the stages before training leave them."""
    lists = make_lists(passages, queries, length, words, tokens)
    texts = [
        {"passage_id": f"p{row}", "title": "", "text": text, "is_source": True}
        for row, text in enumerate(lists.passages)
    ]
    rows: list[dict[str, Any]] = []
    for query, (listed, scores) in enumerate(zip(lists.rows.tolist(), lists.scores.tolist(), strict=True)):
        is_dev = query % DEV_EVERY == 0
        rows.append({
            "query_id": f"q{query}", "query_type": "search", "text": lists.queries[query], "passage_rows": listed,
            "scores": scores, "split": "dev" if is_dev else "train", "dev_rows": listed if is_dev else [],
            "dev_scores": scores if is_dev else [],
        })  # fmt: skip
    _write(workdir, PASSAGES, "passages", texts)
    _write(workdir, LISTS, "lists", rows)


def _write(workdir: Path, schema: TableSchema, path: str, rows: list[dict[str, Any]]) -> None:
    storage, shard = Storage(str(workdir)), Shard("00000", len(rows))
    plan = Plan.new(schema, [shard], {})
    storage.put(f"{path}/plan.json", plan.to_bytes())
    files = put_rows(storage, path, shard.name, pa.Table.from_pylist(rows, schema=schema.schema))
    publish(storage, path, plan.id, Commit(shard.name, files, len(rows), len(rows), {}, 0, 0, 0.0, "gpu", "gpu"))


def _apart(left: Path, right: Path) -> float:
    """Largest difference of two weights of the same name."""
    from safetensors.numpy import load_file

    pairs = zip(sorted(left.rglob("model.safetensors")), sorted(right.rglob("model.safetensors")), strict=True)
    differences = [0.0]
    for one, other in pairs:
        ours, theirs = load_file(one), load_file(other)
        differences += [float(np.abs(weight - theirs[name]).max()) for name, weight in ours.items()]
    return max(differences)
