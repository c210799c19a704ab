"""The training loop of one rank. The same function runs under Ray Train, torchrun and srun, or alone.

Everything that decides a step is a pure function of the step number, so the loop has no state but weights, moments and
the number of the next step; a checkpoint is those three.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist

from cluster.errors import RunError
from cluster.machines.malloc import trim_freed_memory
from distill.collectives import broadcast_object
from distill.encoders.export import save as save_model
from distill.encoders.lora import merge_adapters
from distill.encoders.module import EncoderModule
from distill.settings.training import TrainingSettings
from distill.training.batches import StepPlan, epoch_order, plan_step
from distill.training.checkpoint_clock import CheckpointClock
from distill.training.checkpoint_files import name_of
from distill.training.checkpoints import CheckpointWriter, load_weights
from distill.training.chosen import BASE, chosen_in_words
from distill.training.deepspeed_engine import step_optimizer
from distill.training.job import TrainingJob
from distill.training.output_owner import own
from distill.training.process_group import join_ranks, rank_device
from distill.training.setup import Ready, Schedule, load_student, prepare
from distill.training.step import Prepared
from distill.training.stop import StopRequest, TrainingStopped
from distill.training.trackers import Trackers


def learning_rate(step: int, schedule: Schedule, training: TrainingSettings) -> float:
    """Linear warm-up to the full rate, then linear decay to `final_learning_rate` × it at the last step."""
    if step < schedule.warmup:
        return training.learning_rate * (step + 1) / schedule.warmup
    left = (schedule.total - 1 - step) / max(1, schedule.total - 1 - schedule.warmup)
    return training.learning_rate * (training.final_learning_rate + (1 - training.final_learning_rate) * max(0.0, left))


def train(job: TrainingJob, on_record: Callable[[dict[str, Any]], None] = lambda record: None) -> dict[str, Any]:
    """Trains on this rank; every rank calls it. Continues from the newest checkpoint in `job.output`.

    Args:
        job: the same on every rank.
        on_record: called on rank 0 with every line of metrics.jsonl as it is written, before them with
            {"total", "resumed"}, queries of the whole training and those of earlier runs, and with {"doing"}, what is
            done before a step, in words.

    Returns:
        {"model", "steps", "total_steps", "best_step", "dev", "base_dev", "best_dev", "lists", "dev_lists",
        "world_size", "outcome", …}. With a `best_step` of 0 no step was better on the dev lists than the base, and the
        model is the base; `outcome` says which it is in a sentence.

    Raises:
        InputError: lists that do not fit the corpus, fewer lists than ranks, a checkpoint of another training; or
            another training writes to the same output.
        RunError: the loss is no number; the batch's query ids are named and the last checkpoint stays.
        TrainingStopped: it was asked to; a checkpoint of the last step is written.
    """
    device = rank_device()
    rank, world_size = join_ranks(device)
    Path(job.output).mkdir(parents=True, exist_ok=True)

    def say(what: str) -> None:
        if rank == 0:
            on_record({"doing": what})

    with own(Path(job.output)):
        return _Rank(job, prepare(job, device, world_size, say), rank, world_size, on_record).train()


def train_from(job: str, on_record: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """`train` with the job as JSON, for ranks that Ray places."""
    return train(TrainingJob.from_json(job), on_record)


class _Rank:
    """The training loop of one rank.

    Args:
        job: the same on every rank.
        ready: what `prepare` made.
        rank, world_size: of this process.
        on_record: is called on rank 0 with every line of metrics.jsonl.
    """

    def __init__(
        self, job: TrainingJob, ready: Ready, rank: int, world_size: int, on_record: Callable[[dict[str, Any]], None]
    ) -> None:
        self.job, self.ready, self.rank, self.world_size, self.on_record = job, ready, rank, world_size, on_record
        self.training, self.schedule, self.state = job.training, ready.schedule, ready.state
        self.output = Path(job.output)
        self.checkpoints = self.output / "checkpoints"
        self._computed_before = 0.0  # processor time of this process when the step began
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))  # of the epoch that is being planned

    def train(self) -> dict[str, Any]:
        """Runs all steps that are left, keeps the best checkpoint, exports it."""
        state = self.state
        trackers = self.training.trackers if self.rank == 0 else []
        with (
            Trackers(trackers, self.output, self._hyperparameters()) as track,
            CheckpointWriter(self.checkpoints, self.training.keep_checkpoints) as writer,
            StopRequest(self.output, self.rank) as request,
        ):
            self._trackers = track
            if self.rank == 0:
                size = self.schedule.queries_per_step
                self.on_record({"total": self.schedule.total * size, "resumed": state["step"] * size})
                for note in state.pop("notes"):
                    self.on_record({"note": note})
            if self.ready.evaluator and state["base_dev"] is None:
                state["base_dev"] = state["dev"] = base = self._evaluate(0)
                # the base is the first candidate: what is trained has to be better
                state |= {"best_step": BASE, "best_ndcg": base["dev_ndcg@10"], "best_loss": base["dev_loss"]}
            every = self.training.evaluate_every or self.schedule.per_epoch
            keep_every = self.training.checkpoint_every or (self.schedule.total if self.ready.evaluator else every)
            clock = CheckpointClock(self.training.checkpoint_minutes)
            # the next plan and its tensors are made while this step runs
            with ThreadPoolExecutor(1, initializer=self._use_device) as planner:
                planned = planner.submit(self._prepare, state["step"])
                while state["step"] < self.schedule.total and state["stale"] < self.training.patience:
                    begun, self._computed_before = time.monotonic(), time.process_time()
                    prepared = planned.result()
                    planned = planner.submit(self._prepare, min(state["step"] + 1, self.schedule.total - 1))
                    stop, is_due = self._step(state["step"], prepared, begun, request.asked(), clock.is_due())
                    state["step"] += 1
                    last = state["step"] == self.schedule.total
                    evaluate = self.ready.evaluator is not None and (state["step"] % every == 0 or last)
                    if evaluate:
                        self._judge(state)
                    if evaluate or last or state["step"] % keep_every == 0 or stop or is_due:
                        with clock:
                            writer.save(self.ready.engine, state)
                    if stop and not last:
                        raise TrainingStopped(
                            f"training was asked to stop; step {state['step']} of {self.schedule.total} is done and "
                            "its checkpoint written. The same command continues from it."
                        )
        return self._finish(state)

    def _use_device(self) -> None:
        """A thread's memory is pinned for the first GPU, unless it is told of another."""
        if self.ready.module.device.startswith("cuda"):
            torch.cuda.set_device(self.ready.module.device)

    def _prepare(self, step: int) -> Prepared:
        epoch, within = divmod(step, self.schedule.per_epoch)
        if self._order[0] != epoch:
            order = epoch_order(
                self.ready.lists.rows, self.training.seed, epoch, self.training.topic_queries, self.ready.lists.logged,
                self.training.query_log_weight,
            )  # fmt: skip
            self._order = (epoch, order)
        queries = self._order[1][
            within * self.schedule.queries_per_step : (within + 1) * self.schedule.queries_per_step
        ]
        plan = plan_step(
            queries, self.ready.lists.rows, self.ready.tokens["train"].lengths, self.ready.tokens["passages"].lengths,
            self.world_size, self.training.micro_batch_tokens, self.ready.layout.packed,
        )  # fmt: skip
        return self.ready.stepper.prepare(plan, self.ready.lists.scores[plan.queries])

    def _step(self, step: int, prepared: Prepared, begun: float, stop: bool, is_due: bool) -> tuple[bool, bool]:
        """One step and its line of metrics; whether any rank is asked to stop, and finds that a checkpoint is due."""
        plan = prepared.plan
        rate = learning_rate(step, self.schedule, self.training)
        for group in self.ready.engine.optimizer.param_groups:
            group["lr"] = rate
        result = self.ready.stepper.run(prepared, stop, is_due)
        if not math.isfinite(result.loss):
            self._refuse(plan, f"the loss of step {step + 1} is {result.loss}")
        norm = step_optimizer(self.ready.engine)
        if not math.isfinite(norm):
            self._refuse(plan, f"the gradient of step {step + 1} is {norm}")
        listed: dict[str, float] = {} if self.training.loss == "infonce" else {str(self.training.loss): result.listed}
        # activations that are held here: the next step needs as much again, and the kernel would zero it again
        trim_freed_memory(needed=self.ready.stepper.activations.step_bytes if self.ready.module.device == "cpu" else 0)
        seconds, computed_s = time.monotonic() - begun, time.process_time() - self._computed_before
        self._record({
            "step": step + 1, "epoch": round((step + 1) / self.schedule.per_epoch, 4), "loss": result.loss,
            **listed, "contrastive": result.contrastive, "learning_rate": rate, "queries": len(plan.queries),
            "repeats": round(plan.repeats, 3),
            "seconds": round(seconds, 3),
            "queries_per_s": _significant(len(plan.queries) / seconds),
            "tokens_per_s": _significant(result.tokens * self.world_size / seconds),
            "padding": round(1 - result.tokens / max(1, result.computed_tokens), 4),
            "recomputed": round(result.recomputed_tokens / max(1, result.computed_tokens), 4),
            "reused": round(result.reused, 4),
            "gradient_norm": norm,
            "cores_used": round(computed_s / seconds, 2),
        })  # fmt: skip
        return result.stop, result.is_due

    def _refuse(self, plan: StepPlan, what: str) -> NoReturn:
        ids = ", ".join(self.ready.lists.query_ids[int(row)].as_py() for row in plan.queries[:10])
        more = " …" if len(plan.queries) > 10 else ""
        raise RunError(
            f"{what}; the last checkpoint stays. The step's queries: {ids}{more}. "
            "Lower training.learning_rate, or look at the scores of these lists."
        )

    def _evaluate(self, step: int) -> dict[str, float]:
        assert self.ready.evaluator is not None
        if self.rank == 0:
            self.on_record({"doing": f"evaluates on {len(self.ready.dev_lists):,} dev queries"})
        self.ready.stepper.activations.release()
        result = self.ready.evaluator(self.ready.module, self.rank, self.world_size)
        trim_freed_memory()
        # on unlike machines the last bit may differ, and ranks that decide by it would wait for each other for ever
        dev = broadcast_object({"dev_ndcg@10": result.ndcg, "dev_loss": result.loss})
        self._record({"step": step, "epoch": round(step / self.schedule.per_epoch, 4), **dev})
        return dev

    def _judge(self, state: dict[str, Any]) -> None:
        """Evaluates, and notes whether nDCG or loss improved; the best checkpoint is the one with the best nDCG."""
        state["dev"] = dev = self._evaluate(state["step"])
        better = dev["dev_ndcg@10"] > state["best_ndcg"]
        state["stale"] = 0 if better or dev["dev_loss"] < state["best_loss"] else state["stale"] + 1
        state["best_loss"] = min(state["best_loss"], dev["dev_loss"])
        if better:
            state["best_ndcg"], state["best_step"] = dev["dev_ndcg@10"], state["step"]

    def _record(self, record: dict[str, Any]) -> None:
        if self.rank == 0:
            with (self.output / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            self._trackers.log(record)
            self.on_record(record)

    def _hyperparameters(self) -> dict[str, Any]:
        return {"student": self.job.student.model, "world_size": self.world_size, **self.training.model_dump()}

    def _finish(self, state: dict[str, Any]) -> dict[str, Any]:
        """Rank 0 exports the best checkpoint, or the base if no step was better; all ranks return the same record."""
        best = state["step"] if state["best_step"] is None else state["best_step"]
        record = {
            "model": self.job.model, "steps": state["step"], "total_steps": self.schedule.total, "best_step": best,
            "dev": state["dev"], "base_dev": state["base_dev"],
            "best_dev": state["best_ndcg"] if state["base_dev"] else None, "lists": len(self.ready.lists),
            "dev_lists": len(self.ready.dev_lists), "world_size": self.world_size,
            "queries_per_step": self.schedule.queries_per_step, "student": self.job.student.model,
            "loss": self.training.loss, "also_good_when_cut_at": list(self.training.matryoshka) or None,
        }  # fmt: skip
        record["outcome"] = chosen_in_words(record)
        if self.rank == 0:
            model = load_student(self.job, "cpu")
            if best != BASE:
                load_weights(self.checkpoints / name_of(best), EncoderModule(model, "cpu", torch.float32))
            if self.job.student.lora:
                merge_adapters(model)
            save_model(model, self.job.model, self.job.student, record)
        dist.barrier()
        return record


def _significant(value: float) -> float:
    """A rate with four digits, however small it is: a step on one core may take minutes for each query."""
    return float(f"{value:.4g}")
