"""The fine-tuning of a teacher on one rank. The same function runs under Ray Train or torchrun, or alone.

    tokens of own lists → logits → KL divergence from the targets → backward → one reduction of the gradients

A list is never divided: its loss needs all of its logits. The loss has the step's number of lists as its denominator,
so the ranks' gradients must be summed; DeepSpeed divides by the world size, and the loss is multiplied by it.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from cluster.errors import RunError
from cluster.tables.row_reader import RowReader
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from distill.collectives import run_on_rank_0
from distill.encoders.device import resolve_dtype
from distill.losses.listwise import kl_divergence
from distill.settings.teachers import as_cross_encoder
from distill.teachers.adapting.batches import Batches, MicroBatch
from distill.teachers.adapting.data import SCORED as SCORED_COLUMNS
from distill.teachers.adapting.held_out import held_out_scores
from distill.teachers.adapting.job import HELD_OUT, LISTS, METRICS, MODEL, SCORED, AdaptingJob
from distill.teachers.adapting.model import PairModule, load_base
from distill.training.checkpoint_files import newest_whole, read
from distill.training.checkpoints import CheckpointWriter, load_moments, load_weights
from distill.training.deepspeed_engine import start_engine, step_optimizer
from distill.training.output_owner import own
from distill.training.process_group import join_ranks, rank_device
from distill.training.setup import Schedule
from distill.training.stop import StopRequest, TrainingStopped
from distill.training.trainer import learning_rate

OnRecord = Callable[[dict[str, Any]], None]


def train_from(job: str, on_record: OnRecord) -> dict[str, Any]:
    """`train` with the job as JSON, for ranks that Ray places."""
    return train(AdaptingJob.from_json(job), on_record)


def train(job: AdaptingJob, on_record: OnRecord = lambda record: None) -> dict[str, Any]:
    """Fine-tunes on this rank, and scores held-out queries; every rank calls it. Continues from the newest checkpoint.

    Args:
        job: the same on every rank.
        on_record: called on rank 0 with every line of metrics.jsonl, and first of all with {"total", "resumed"}.

    Returns:
        {"steps", "lists", "queries_per_step", "world_size", "seconds_training", "weights" (digest of the file)}. The
        scores of held-out queries, by the model and by the reranker that it began with, are in the file `SCORED`.
        Without steps (fewer lists than ranks), {"steps": 0, "lists"}, and no such file.

    Raises:
        InputError: the model cannot be loaded.
        RunError: the loss or the gradient is no number.
        TrainingStopped: it was asked to; a checkpoint of the last step is written.
    """
    device = rank_device()
    rank, world_size = join_ranks(device)
    output, adapt = Path(job.output), job.adapt
    texts = RowReader(Table.open(Storage(job.workdir, job.patience_s), job.passages), ["title", "text"])
    model, tokenizer, is_reranker = load_base(job.teacher, adapt.seed)
    batches = Batches(
        pq.read_table(output / LISTS), texts, tokenizer, adapt.queries_per_step, adapt.micro_batch_tokens, adapt.seed
    )
    if batches.queries_per_step < world_size:
        return {"steps": 0, "lists": len(batches.lists)}
    begun = time.monotonic()
    module = PairModule(model, device, resolve_dtype(job.training.dtype, device))
    with own(output):
        steps = _Rank(job, module, batches, rank, world_size, on_record).run()
    seconds = time.monotonic() - begun

    def export() -> str:
        shutil.rmtree(output / MODEL, ignore_errors=True)
        model.save_pretrained(output / MODEL)
        tokenizer.save_pretrained(output / MODEL)
        return hashlib.blake2b((output / MODEL / "model.safetensors").read_bytes(), digest_size=16).hexdigest()

    digest = run_on_rank_0(export)
    held_out = pq.read_table(output / HELD_OUT)
    trained = as_cross_encoder(job.teacher, str(output / MODEL))
    before = as_cross_encoder(job.teacher, str(job.teacher.model)).model_copy(update={"revision": job.teacher.revision})
    adapted = held_out_scores(trained, held_out, texts, device)
    untrained = held_out_scores(before, held_out, texts, device) if is_reranker else [None] * len(held_out)
    scored = pa.table({"adapted": adapted, "untrained": untrained}, SCORED_COLUMNS)
    run_on_rank_0(lambda: pq.write_table(scored, output / SCORED))
    return {
        "steps": steps,
        "lists": len(batches.lists),
        "queries_per_step": batches.queries_per_step,
        "world_size": world_size,
        "seconds_training": round(seconds, 3),
        "weights": digest,
    }


class _Rank:
    """The training loop of one rank."""

    def __init__(
        self,
        job: AdaptingJob,
        module: PairModule,
        batches: Batches,
        rank: int,
        world_size: int,
        on_record: OnRecord,
    ) -> None:
        self.adapt, self.training, self.output = job.adapt, job.training, Path(job.output)
        self.module, self.batches, self.rank, self.world_size = module, batches, rank, world_size
        self.on_record = on_record
        whole = self.adapt.epochs * batches.per_epoch
        total = min(whole, self.adapt.max_steps or whole)
        self.schedule = Schedule(batches.queries_per_step, batches.per_epoch, total, round(self.adapt.warmup * total))

    def run(self) -> int:
        """Runs all steps that are left; the module then has the weights of the last one. Returns the number of all."""
        checkpoints, size = self.output / "checkpoints", self.schedule.queries_per_step
        newest, notes = run_on_rank_0(lambda: newest_whole(checkpoints))
        state: dict[str, Any] = {"step": 0, "best_step": None}
        if newest:
            state = run_on_rank_0(lambda: read(newest))
            load_weights(newest, self.module)
        engine = start_engine(self.module, self.training, self.world_size)
        if newest:
            load_moments(newest, engine)
        self._record({"total": self.schedule.total * size, "resumed": state["step"] * size}, log=False)
        for note in notes:
            self._record({"note": note}, log=False)
        with (
            CheckpointWriter(checkpoints, keep=1) as writer,
            StopRequest(self.output, self.rank) as request,
            ThreadPoolExecutor(1) as planner,  # the next step's tokens are made while this one runs
        ):
            planned = planner.submit(self._prepare, state["step"])
            while state["step"] < self.schedule.total:
                work = planned.result()
                planned = planner.submit(self._prepare, min(state["step"] + 1, self.schedule.total - 1))
                stop = self._step(engine, state["step"], work, request.asked())
                state["step"] += 1
                last = state["step"] == self.schedule.total
                if last or stop or state["step"] % self.adapt.checkpoint_every == 0:
                    writer.save(engine, state)
                if stop and not last:
                    raise TrainingStopped(
                        f"the training of a teacher was asked to stop; step {state['step']} of {self.schedule.total} "
                        "is done and its checkpoint written. The same command continues from it."
                    )
        return state["step"]

    def _prepare(self, step: int) -> list[MicroBatch]:
        return self.batches.micro_batches(self.batches.own_lists(step, self.rank, self.world_size))

    def _step(self, engine: Any, step: int, work: list[MicroBatch], stop: bool) -> bool:
        """One step and its line of metrics; whether any rank is asked to stop."""
        begun, size = time.monotonic(), self.schedule.queries_per_step
        rate = learning_rate(step, self.schedule, self.training)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        loss = torch.zeros((), device=self.module.device)
        for number, micro in enumerate(work, start=1):
            targets = micro.targets.to(self.module.device)
            logits = engine(**micro.features).view(targets.shape)
            parts = kl_divergence(
                logits / self.adapt.temperature, targets / self.adapt.teacher_temperature,
                torch.ones_like(targets, dtype=torch.bool),
            )  # fmt: skip
            own = parts.sum() / size
            engine.set_gradient_accumulation_boundary(number == len(work))
            engine.backward(own * self.world_size, scale_wrt_gas=False)
            loss += own.detach()
        tokens = sum(micro.tokens for micro in work)
        sums = torch.stack([loss, loss.new_tensor(float(stop)), loss.new_tensor(float(tokens))])
        dist.all_reduce(sums)
        norm = step_optimizer(engine)
        if not math.isfinite(sums[0].item()) or not math.isfinite(norm):
            raise RunError(
                f"step {step + 1} of the training of a teacher has the loss {sums[0].item()} and the gradient {norm}; "
                "the last checkpoint stays. Lower `adapt.learning_rate` of the teacher."
            )
        seconds = time.monotonic() - begun
        self._record({
            "step": step + 1, "loss": sums[0].item(), "learning_rate": rate, "gradient_norm": norm, "queries": size,
            "queries_per_s": round(size / seconds, 2), "tokens_per_s": round(sums[2].item() / seconds, 1),
        })  # fmt: skip
        return sums[1].item() > 0

    def _record(self, record: dict[str, Any], log: bool = True) -> None:
        if self.rank:
            return
        if log:
            with (self.output / METRICS).open("a") as file:
                file.write(json.dumps(record) + "\n")
        self.on_record(record)
