"""Three steps to compare: ours, one that encodes every slot of every list, and that of sentence-transformers' trainer.

All three run in one process, on one device, with the same lists, student, arithmetic and optimizer.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.machine import Products, SpeedDuringStep, now, touch
from benchmarks.plain_engine import start
from distill.activations.activations import Activations
from distill.activations.budget import MIB, activation_bytes, room_bytes
from distill.encoders.compute.choose import choose_for_training
from distill.encoders.device import resolve_dtype
from distill.encoders.layout import pad_token
from distill.encoders.loading import load_model
from distill.encoders.module import EncoderModule, embed
from distill.encoders.reading import Reading
from distill.encoders.tokens import TokenFile, write_tokens
from distill.losses.batch import LossSettings, loss_and_gradients
from distill.settings.encoders import StudentSettings
from distill.settings.training import TrainingSettings
from distill.training.batches import StepPlan, epoch_order, plan_step
from distill.training.deepspeed_engine import step_optimizer
from distill.training.process_group import join_ranks
from distill.training.step import Prepared, Stepper

MICRO_BATCH = TrainingSettings().micro_batch_tokens
SLOT_MICRO_BATCH = 4096  # tokens, of the step of all slots on a CPU: it is fastest with this size
TOPIC = 64  # queries of one topic, in the order by topic
SLOT_BYTES = 3 * 2**30  # memory that the step of all slots needs; it gets it from the system before it is timed
RANKS = 8  # number of ranks for which the balance of tokens is computed


@dataclass(frozen=True)
class Lists:
    """Lists to learn from.

    Attributes:
        queries: texts of N queries.
        passages: texts of P passages.
        rows: (N, L) int64, the passages of each query's list.
        scores: (N, L) float32, from 0 to 1.
    """

    queries: list[str]
    passages: list[str]
    rows: np.ndarray
    scores: np.ndarray


class Bench:
    """The student, optimizer, tokens and lists that all three steps share.

    Args:
        lists: what is learnt from.
        model: the student.
        max_tokens: of a passage.
        device: "cpu" or "cuda".
        slot_tokens: of a micro-batch of the step of all slots.
    """

    def __init__(
        self, lists: Lists, model: str, max_tokens: int, device: str = "cpu", slot_tokens: int = SLOT_MICRO_BATCH
    ) -> None:
        join_ranks(device)
        self.device, self.slot_tokens = device, slot_tokens
        self.queries, self.passages, self.rows, self.scores = lists.queries, lists.passages, lists.rows, lists.scores
        self.model_name = model
        self.settings = StudentSettings(model=model, max_query_tokens=64, max_passage_tokens=max_tokens)
        self.dtype = resolve_dtype("auto", device)
        loaded = load_model(self.settings, device)
        self.pad_id = pad_token(loaded)
        folder = Path(tempfile.mkdtemp())
        write_tokens(folder / "queries", self.queries, Reading(loaded, "query", 64).token_ids)
        write_tokens(folder / "passages", self.passages, Reading(loaded, "document", max_tokens).token_ids)
        self.tokens = [TokenFile(folder / name) for name in ("queries", "passages")]
        training = TrainingSettings(learning_rate=1e-5)
        self.student = student = EncoderModule(loaded, device, self.dtype)
        layout = choose_for_training(student, self.tokens[1], self.pad_id, training)
        self.engine = start(student, training)
        self.budget = activation_bytes(None, self.engine.module, device)
        room = room_bytes(None, self.engine.module, device)
        self.activations = Activations(self.engine, student, self.budget, room_bytes=room)
        self.stepper = Stepper(self.engine, *self.tokens, LossSettings(), self.activations, layout)
        self.weights = sum(p.numel() for name, p in loaded.named_parameters() if "embeddings" not in name)
        self.config = config = loaded.transformers_model.config
        length = int(self.tokens[1].lengths.mean()) // 16 * 16
        self.products = Products(
            self.dtype, config.hidden_size, config.intermediate_size, config.num_attention_heads, length, MICRO_BATCH,
            device,
        )  # fmt: skip
        self.orders = {
            name: epoch_order(self.rows, 0, 0, block) for name, block in (("shuffled", 1), ("topics", TOPIC))
        }
        self.order = self.orders["shuffled"]

    def prepare(self, count: int, order: str) -> Prepared:
        """The first step of `count` queries in this order."""
        plan = plan_step(self.orders[order][:count], self.rows, *(file.lengths for file in self.tokens), 1, MICRO_BATCH)
        return self.stepper.prepare(plan, self.scores[plan.queries])

    def reserve(self, count: int, order: str, kept_mib: int | None) -> None:
        """Gets the memory that such a step needs from the system, as the first step of a training does."""
        self.activations.most_bytes = self.kept_bytes(kept_mib)
        self.activations.plan(self.prepare(count, order).work)
        touch(self.activations.step_bytes)

    def ours(self, count: int, order: str = "shuffled", kept_mib: int | None = None) -> dict[str, float]:
        """Runs one step of `count` queries as the trainer does, with `kept_mib` of memory for activations."""
        self.activations.most_bytes = self.kept_bytes(kept_mib)
        with SpeedDuringStep(self.products, self.engine.module) as products:
            start = now(self.device)
            prepared = self.prepare(count, order)
            result = self.stepper.run(prepared)
            step_optimizer(self.engine)
            seconds = now(self.device) - start - products.taken
        plan = prepared.plan
        return {
            "seconds": seconds, "tokens": result.tokens, "repeats": plan.repeats,
            "padding": 1 - result.tokens / result.computed_tokens,
            "recomputed": result.recomputed_tokens / result.computed_tokens,
            "reused": result.reused, "balance": self.balance(self.orders[order][:count]),
            "flops": self.useful_flops(plan) / seconds, "products": products.flops,
        }  # fmt: skip

    def kept_bytes(self, kept_mib: int | None) -> int:
        """Bytes of memory for activations; None: the trainer's default at the start of the benchmark."""
        return self.budget if kept_mib is None else kept_mib * MIB

    def useful_flops(self, plan: StepPlan) -> float:
        """Operations of forward and backward with attention, without recomputation (arXiv 2204.02311, appendix B)."""
        lengths = np.concatenate([self.tokens[0].lengths[plan.queries], self.tokens[1].lengths[plan.passages]])
        pairs = float((lengths.astype(np.int64) ** 2).sum())  # of tokens that attend to each other
        attention = 12 * self.config.num_hidden_layers * self.config.hidden_size
        return 6 * self.weights * float(lengths.sum()) + attention * pairs

    def balance(self, queries: np.ndarray) -> float:
        """Tokens of the fullest of `RANKS` ranks over the mean of all, if the step were divided among them."""
        lengths = [file.lengths for file in self.tokens]
        plan = plan_step(queries, self.rows, *lengths, RANKS, MICRO_BATCH)
        shares = zip(plan.query_shares, plan.passage_shares, strict=True)
        loads = [
            lengths[0][plan.queries[q.start : q.stop]].sum() + lengths[1][plan.passages[p.start : p.stop]].sum()
            for q, p in shares
        ]
        return float(np.max(loads) / np.mean(loads))

    def every_slot(self, count: int, touched: int = SLOT_BYTES) -> dict[str, float]:
        """Runs one step that encodes all slots and recomputes all activations (GradCache).

        Slots are padded to the longest passage of the batch. The step has its own model, with the attention it was
        loaded with. Before the step is timed, `touched` bytes of memory are taken from the system.
        """
        queries = self.order[:count]
        slots = self.rows[queries].reshape(-1)
        longest = int(self.tokens[1].lengths[slots].max())
        parts = np.array_split(slots, max(1, len(slots) * longest // self.slot_tokens))
        student = load_model(self.settings, self.device)
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)

        def encode(rows: np.ndarray, tokens: TokenFile, width: int) -> torch.Tensor:
            ids, mask = tokens.padded(rows, self.pad_id)
            missing = (0, width - ids.shape[1])
            features = {
                "input_ids": F.pad(ids, missing, value=self.pad_id), "attention_mask": F.pad(mask, missing),
                "modality": "text",
            }  # fmt: skip
            on_device = {
                name: value.to(self.device) if isinstance(value, torch.Tensor) else value
                for name, value in features.items()
            }
            return embed(student, on_device, self.device, self.dtype)

        if self.device == "cpu":
            touch(touched)
        start_s = now(self.device)
        with torch.no_grad():
            passages = torch.cat([encode(part, self.tokens[1], longest) for part in parts])
        query_embeddings = encode(queries, self.tokens[0], int(self.tokens[0].lengths[queries].max()))
        places = torch.arange(len(slots), device=self.device).reshape(self.rows[queries].shape)
        _, query_gradients, passage_gradients = loss_and_gradients(
            query_embeddings.detach(), passages, places, torch.from_numpy(self.scores[queries]).to(self.device),
            torch.ones(len(slots), device=self.device), count, LossSettings(),
        )  # fmt: skip
        (query_embeddings * query_gradients).sum().backward()
        start = 0
        for part in parts:
            embedding = encode(part, self.tokens[1], longest)
            (embedding * passage_gradients[start : start + len(part)]).sum().backward()
            start += len(part)
        optimizer.step()
        return {"seconds": now(self.device) - start_s, "tokens": float(self.tokens[1].lengths[slots].sum())}

    def library(self, count: int, batch: int) -> dict[str, float]:
        """Runs sentence-transformers' trainer with DistillKLDivLoss on `count` queries, after a warm-up step."""
        from datasets import Dataset
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
        from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
        from transformers import TrainerCallback

        chosen = self.order[: count + batch]
        columns: dict[str, Any] = {"query": [self.queries[row] for row in chosen]}
        for slot in range(self.rows.shape[1]):
            columns[f"passage_{slot}"] = [self.passages[row] for row in self.rows[chosen, slot]]
        columns["label"] = self.scores[chosen].tolist()
        model = load_model(self.settings, self.device).train()
        stamps: list[float] = []
        device = self.device

        class Stamp(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                stamps.append(now(device))

        arguments = SentenceTransformerTrainingArguments(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=batch, num_train_epochs=1,
            use_cpu=device == "cpu", bf16=self.dtype == torch.bfloat16, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, learning_rate=1e-5,
        )  # fmt: skip
        loss = DistillKLDivLoss(model, student_temperature=0.05, teacher_temperature=0.3)
        SentenceTransformerTrainer(
            model, arguments, train_dataset=Dataset.from_dict(columns), loss=loss, callbacks=[Stamp()]
        ).train()
        tokens = float(self.tokens[1].lengths[self.rows[chosen[batch:]]].sum())
        return {"seconds": stamps[-1] - stamps[0], "tokens": tokens * (len(stamps) - 1) * batch / count}
