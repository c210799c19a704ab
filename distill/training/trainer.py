"""The training loop of one rank. The same function runs under Ray Train, torchrun and srun, or alone.

Everything that decides a step is a pure function of the step number, so the loop has no state but weights, moments and
the number of the next step; a checkpoint is those three.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist

from cluster.errors import InputError, RunError
from cluster.machines.malloc import trim_freed_memory
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from distill.activations.budget import activation_bytes
from distill.collectives import broadcast_object, ranks_on_this_machine, run_on_rank_0
from distill.encoders.compute.choose import choose_for_training
from distill.encoders.device import resolve_dtype
from distill.encoders.export import save as save_model
from distill.encoders.layout import PackedError
from distill.encoders.loading import load_model, normalizes
from distill.encoders.lora import add_adapters, merge_adapters
from distill.encoders.module import EncoderModule
from distill.encoders.texts import passage_text
from distill.encoders.tokens import TokenFile, parts, write_tokens
from distill.losses.batch import LossSettings
from distill.settings import TrainingSettings
from distill.training.batches import StepPlan, epoch_order, plan_step, steps_per_epoch
from distill.training.checkpoints import CheckpointWriter, load_moments, load_weights, newest_checkpoint, read_state
from distill.training.deepspeed_engine import start_engine, step_optimizer
from distill.training.dev_evaluation import DevEvaluator
from distill.training.job import TrainingJob
from distill.training.list_arrays import read_lists
from distill.training.process_group import join_ranks, rank_device
from distill.training.step import Prepared, Stepper
from distill.training.stop import StopRequest, TrainingStopped
from distill.training.trackers import Trackers

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def learning_rate(step: int, total: int, training: TrainingSettings) -> float:
    """Linear warm-up to the full rate, then linear decay to `final_learning_rate` × it at the last step."""
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    left = (total - 1 - step) / max(1, total - 1 - training.warmup_steps)
    return training.learning_rate * (training.final_learning_rate + (1 - training.final_learning_rate) * max(0.0, left))


def train(job: TrainingJob, on_record: Callable[[dict[str, Any]], None] = lambda record: None) -> dict[str, Any]:
    """Trains on this rank; every rank calls it. Continues from the newest checkpoint in `job.output`.

    Args:
        job: the same on every rank.
        on_record: called on rank 0 with every line of metrics.jsonl as it is written, and first of all with
            {"total", "resumed"}, queries of the whole training and those of earlier runs.

    Returns:
        {"model", "steps", "total_steps", "best_step", "dev", "base_dev", "lists", "dev_lists", "world_size", …}.

    Raises:
        InputError: lists that do not fit the corpus, fewer lists than ranks, a checkpoint of another training.
        RunError: the loss is no number; the batch's query ids are named and the last checkpoint stays.
        TrainingStopped: it was asked to; a checkpoint of the last step is written.
    """
    device = rank_device()
    rank, world_size = join_ranks(device)
    return _Rank(job, device, rank, world_size, on_record).train()


class _Rank:
    """One rank's training: set up in `__init__`, run in `train`."""

    def __init__(
        self, job: TrainingJob, device: str, rank: int, world_size: int, on_record: Callable[[dict[str, Any]], None]
    ) -> None:
        self.job, self.rank, self.world_size, self.on_record = job, rank, world_size, on_record
        self.training = job.training
        self.output = Path(job.output)
        self.output.mkdir(parents=True, exist_ok=True)
        storage = Storage(job.workdir, job.patience_s)
        passages, lists = Table.open(storage, job.passages), Table.open(storage, job.lists)
        table = lists.read()
        self.lists = read_lists(table, "train", self.training.list_length, passages.num_rows)
        self.dev_lists = read_lists(table, "dev", self.training.list_length, passages.num_rows).spread(
            self.training.dev_queries
        )
        if not len(self.lists):
            raise InputError("there are no training lists: lists.dev_fraction or the filters left none.")
        self.queries_per_step = min(self.training.queries_per_step, len(self.lists))
        if self.queries_per_step < world_size:
            raise InputError(
                f"a step of {self.queries_per_step} queries cannot be dealt to {world_size} ranks: lower "
                "training.ranks, raise training.queries_per_step, or generate more queries."
            )
        self.per_epoch = steps_per_epoch(len(self.lists), self.queries_per_step)
        self.total = min(self.training.epochs * self.per_epoch, self.training.max_steps or self.training.epochs * 10**9)
        self.identity: dict[str, Any] = {
            "student": job.student.model_dump(),
            "lists": lists.fingerprint,
            "passages": passages.fingerprint,
            "training": self.training.identity(),
        }
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))  # of the epoch that is being planned
        model = self._load_student(device)
        self.tokens = self._tokenise(passages, model.tokenizer, model.prompts)
        dtype = resolve_dtype(self.training.dtype, device)
        self.student = EncoderModule(model, device, dtype)
        self.checkpoints = self.output / "checkpoints"
        newest = broadcast_object(newest_checkpoint(self.checkpoints))
        self.state: dict[str, Any] = {
            "step": 0, "identity": self.identity, "best_step": None, "best_ndcg": -1.0, "best_loss": math.inf,
            "stale": 0, "base_dev": None, "dev": None,
        }  # fmt: skip
        if newest:
            self.state = run_on_rank_0(lambda: read_state(newest, self.identity))
            load_weights(newest, self.student)
        self.loss_settings = LossSettings(
            **{name: getattr(self.training, name) for name in LossSettings.__dataclass_fields__}
        )
        pad_id = model.tokenizer.pad_token_id or 0  # some decoders name none; padding is masked
        try:
            self.layout = choose_for_training(self.student, self.tokens["passages"], pad_id, self.training)
        except PackedError as error:
            raise InputError(f"training.packed: {error}, with student '{job.student.model}'. Leave it out.") from error
        self.engine = start_engine(self.student, self.training, world_size)
        if newest:
            load_moments(newest, self.engine)
        self.stepper = Stepper(
            self.engine, self.tokens["train"], self.tokens["passages"], self.loss_settings,
            activation_bytes(self.training.activation_mib, self.student, device, ranks_on_this_machine()), self.layout,
        )  # fmt: skip
        self.evaluator = (
            DevEvaluator(
                self.dev_lists, self.tokens["dev"], self.tokens["passages"], self.loss_settings,
                self.training.micro_batch_tokens, self.layout,
            )
            if len(self.dev_lists)
            else None
        )  # fmt: skip

    def _load_student(self, device: str) -> SentenceTransformer:
        """The base model, with adapters where the recipe asks for them."""
        model, cuts = load_model(self.job.student, device), self.training.matryoshka
        dimension = model.get_embedding_dimension() or 0
        if cuts and (max(cuts) >= dimension or not normalizes(model)):
            raise InputError(
                f"training.matryoshka: {list(cuts)} must lie below the student's {dimension} dimensions, and "
                "the student must normalise its embeddings (student.normalize: true)."
            )
        if self.job.student.lora:
            add_adapters(model, self.job.student.lora, self.training.seed)
        return model

    def _tokenise(self, passages: Table, tokenizer: Any, prompts: dict[str, str | None]) -> dict[str, TokenFile]:
        """Token files, written once for these texts and this student, each rank its parts, and mapped by all ranks."""
        what = {**self.identity, "training": {"spread": self.training.dev_queries}}
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
        folder, student = self.output / "tokens" / key, self.job.student
        queries, documents = (
            (student.max_query_tokens, prompts["query"]),
            (student.max_passage_tokens, prompts["document"]),
        )
        sources: dict[str, tuple[int, Callable[[int, int], Iterable[str]], tuple[int, str | None]]] = {
            "train": (len(self.lists), lambda *rows: self.lists.texts[slice(*rows)].to_pylist(), queries),
            "dev": (len(self.dev_lists), lambda *rows: self.dev_lists.texts[slice(*rows)].to_pylist(), queries),
            "passages": (passages.num_rows, lambda *rows: _texts(passages, *rows), documents),
        }
        files = {
            name: [folder / f"{name}-{number:02d}.arrow" for number in range(len(parts(count)))]
            for name, (count, _, _) in sources.items()
        }
        missing = run_on_rank_0(
            lambda: [(n, i) for n, paths in files.items() for i, path in enumerate(paths) if not path.exists()]
        )
        for name, number in missing[self.rank :: self.world_size]:
            count, texts, (limit, prompt) = sources[name]
            write_tokens(files[name][number], texts(*parts(count)[number]), tokenizer, limit, prompt or "")
        dist.barrier()
        return {name: TokenFile(*paths) for name, paths in files.items()}

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
                size = self.queries_per_step
                self.on_record({"total": self.total * size, "resumed": state["step"] * size})
            if self.evaluator and state["base_dev"] is None:
                state["base_dev"] = self._evaluate(0)
            every = self.training.evaluate_every or self.per_epoch
            keep_every = self.training.checkpoint_every or (self.total if self.evaluator else every)
            # the next plan and its tensors are made while this step runs
            with ThreadPoolExecutor(1, initializer=self._use_device) as planner:
                planned = planner.submit(self._prepare, state["step"])
                while state["step"] < self.total and state["stale"] < self.training.patience:
                    begun = time.monotonic()
                    prepared = planned.result()
                    planned = planner.submit(self._prepare, min(state["step"] + 1, self.total - 1))
                    stop = self._step(state["step"], prepared, begun, request.asked())
                    state["step"] += 1
                    last = state["step"] == self.total
                    evaluate = self.evaluator is not None and (state["step"] % every == 0 or last)
                    if evaluate:
                        self._judge(state)
                    if evaluate or last or state["step"] % keep_every == 0 or stop:
                        writer.save(self.engine, state)
                    if stop and not last:
                        raise TrainingStopped(
                            f"training was asked to stop; step {state['step']} of {self.total} is done and its "
                            "checkpoint written. The same command continues from it."
                        )
        return self._finish(state)

    def _use_device(self) -> None:
        """A thread's memory is pinned for the first GPU, unless it is told of another."""
        if self.student.device.startswith("cuda"):
            torch.cuda.set_device(self.student.device)

    def _prepare(self, step: int) -> Prepared:
        epoch, within = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            order = epoch_order(self.lists.rows, self.training.seed, epoch, self.training.topic_queries)
            self._order = (epoch, order)
        queries = self._order[1][within * self.queries_per_step : (within + 1) * self.queries_per_step]
        plan = plan_step(
            queries, self.lists.rows, self.tokens["train"].lengths, self.tokens["passages"].lengths,
            self.world_size, self.training.micro_batch_tokens, self.layout.packed,
        )  # fmt: skip
        return self.stepper.prepare(plan, self.lists.scores[plan.queries])

    def _step(self, step: int, prepared: Prepared, begun: float, stop: bool) -> bool:
        """One step and its line of metrics; whether any rank is asked to stop."""
        plan = prepared.plan
        rate = learning_rate(step, self.total, self.training)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        result = self.stepper.run(prepared, stop)
        if not math.isfinite(result.loss):
            self._refuse(plan, f"the loss of step {step + 1} is {result.loss}")
        norm = step_optimizer(self.engine)
        if not math.isfinite(norm):
            self._refuse(plan, f"the gradient of step {step + 1} is {norm}")
        listed: dict[str, float] = {} if self.training.loss == "infonce" else {str(self.training.loss): result.listed}
        # activations that are held here: the next step needs as much again, and the kernel would zero it again
        trim_freed_memory(needed=self.stepper.step_bytes if self.student.device == "cpu" else 0)
        seconds = time.monotonic() - begun
        self._record({
            "step": step + 1, "epoch": round((step + 1) / self.per_epoch, 4), "loss": result.loss,
            **listed, "contrastive": result.contrastive, "learning_rate": rate, "queries": len(plan.queries),
            "repeats": round(plan.repeats, 3),
            "queries_per_s": round(len(plan.queries) / seconds, 2),
            "tokens_per_s": round(result.tokens * self.world_size / seconds, 1),
            "padding": round(1 - result.tokens / max(1, result.computed_tokens), 4),
            "recomputed": round(result.recomputed_tokens / max(1, result.computed_tokens), 4),
            "recalled": round(result.recalled, 4),
            "gradient_norm": norm,
        })  # fmt: skip
        return result.stop

    def _refuse(self, plan: StepPlan, what: str) -> NoReturn:
        ids = ", ".join(self.lists.query_ids[int(row)].as_py() for row in plan.queries[:10])
        more = " …" if len(plan.queries) > 10 else ""
        raise RunError(
            f"{what}; the last checkpoint stays. The step's queries: {ids}{more}. "
            "Lower training.learning_rate, or look at the scores of these lists."
        )

    def _evaluate(self, step: int) -> dict[str, float]:
        assert self.evaluator is not None
        self.stepper.release()
        result = self.evaluator(self.student, self.rank, self.world_size)
        trim_freed_memory()
        dev = {"dev_ndcg@10": result.ndcg, "dev_loss": result.loss}
        self._record({"step": step, "epoch": round(step / self.per_epoch, 4), **dev})
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
        """Rank 0 exports the best checkpoint; all ranks return the same record."""
        best = state["best_step"] or state["step"]
        record = {
            "model": self.job.model, "steps": state["step"], "total_steps": self.total, "best_step": best,
            "dev": state["dev"], "base_dev": state["base_dev"], "lists": len(self.lists),
            "dev_lists": len(self.dev_lists), "world_size": self.world_size,
            "queries_per_step": self.queries_per_step, "student": self.job.student.model,
            "loss": self.training.loss, "also_good_when_cut_at": list(self.training.matryoshka) or None,
        }  # fmt: skip
        if self.rank == 0:
            model = self._load_student("cpu")
            load_weights(self.checkpoints / f"step-{best:08d}", EncoderModule(model, "cpu", torch.float32))
            if self.job.student.lora:
                merge_adapters(model)
            save_model(model, self.job.model, self.job.student, record)
        dist.barrier()
        return record


def _texts(passages: Table, start: int, stop: int) -> Iterable[str]:
    """Passages of rows `start` to `stop`, as the student sees them; no data file is read that holds none of them."""
    begin = 0
    for path, rows in passages.files():
        first, last = max(start - begin, 0), min(stop - begin, rows)
        begin += rows
        if first < last:
            batch = passages.read_file(path, ["title", "text"]).slice(first, last - first)
            for title, text in zip(batch["title"].to_pylist(), batch["text"].to_pylist(), strict=True):
                yield passage_text(title, text)
