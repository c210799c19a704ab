"""What a training step costs: every passage once, against every slot encoded, against sentence-transformers' trainer.

    python -m benchmarks.train_step --dataset FOLDER [--queries 64 256 2048] [--write docs/benchmarks.md]

One process, the same lists, student, arithmetic and optimizer for all. Queries are the data set's own and the titles of
its passages; lists are BM25's. Slots are many, so the step that encodes all of them is timed on `--slice` queries and
its cost per slot is taken as constant, which it is: slots are padded to one length, in equal micro-batches. It is timed
before and after every row, and a layer's matrix products between the passes of every step, because machines that are
shared change their speed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.machine import PEAK_PASSES, Meanwhile, Peak, Products, touch
from cluster.machines.malloc import trim_freed_memory
from distill.activations.activations import Activations
from distill.activations.budget import MIB, activation_bytes
from distill.encoders.compute.choose import choose_for_training
from distill.encoders.device import resolve_dtype
from distill.encoders.loading import load_model
from distill.encoders.module import EncoderModule, embed
from distill.encoders.texts import passage_text
from distill.encoders.tokens import TokenFile, write_tokens
from distill.losses.batch import LossSettings, loss_and_gradients
from distill.retrieval.bm25 import Bm25Index
from distill.settings import StudentSettings, TrainingSettings
from distill.training.batches import StepPlan, epoch_order, plan_step
from distill.training.deepspeed_engine import start_engine, step_optimizer
from distill.training.process_group import join_ranks
from distill.training.step import Prepared, Stepper

LENGTH, MAX_TOKENS, MICRO_BATCH = 20, 256, TrainingSettings().micro_batch_tokens
SLOT_MICRO_BATCH = 4096  # tokens, of the step of all slots: it is fastest so
TOPIC = 64  # queries that stand together in the order by topic
REPEATED = 4  # slots for each passage of the corpus, from which on the order makes no difference
REPEATS, SHORT = 3, 128  # steps of fewer queries are made so often
LIBRARY = 16  # queries that sentence-transformers' trainer is timed on
SLOT_BYTES = 3 * 2**30  # that the step of all slots takes; it need not wait for the system either
RANKS = 8  # for which the balance of tokens is told


def read_lists(dataset: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Query texts, passage texts, (N, 20) BM25's best rows and their scores, scaled to 0…1 by the best."""
    corpus = [json.loads(line) for line in (dataset / "corpus.jsonl").open()]
    passages = [passage_text(each.get("title"), each["text"]) for each in corpus]
    queries = [json.loads(line)["text"] for line in (dataset / "queries.jsonl").open()]
    queries += [each["title"] for each in corpus if each.get("title")]
    hits = Bm25Index([passages]).search(queries, LENGTH)
    full = (hits.rows >= 0).all(axis=1)
    rows, scores = hits.rows[full].astype(np.int64), hits.scores[full].astype(np.float32)
    asked = [query for query, whole in zip(queries, full, strict=True) if whole]
    return asked, passages, rows, scores / scores.max(axis=1, keepdims=True)


class Bench:
    """Student, optimizer, tokens and lists that all contestants share."""

    def __init__(self, dataset: Path, model: str) -> None:
        join_ranks("cpu")
        self.dataset = dataset
        self.queries, self.passages, self.rows, self.scores = read_lists(dataset)
        self.model_name = model
        self.settings = StudentSettings(model=model, max_query_tokens=64, max_passage_tokens=MAX_TOKENS)
        self.dtype = resolve_dtype("auto", "cpu")
        loaded = load_model(self.settings, "cpu")
        self.pad_id = loaded.tokenizer.pad_token_id
        folder = Path(tempfile.mkdtemp())
        for name, texts, limit in (("queries", self.queries, 64), ("passages", self.passages, MAX_TOKENS)):
            write_tokens(folder / name, texts, loaded.tokenizer, limit)
        self.tokens = [TokenFile(folder / name) for name in ("queries", "passages")]
        training = TrainingSettings(learning_rate=1e-5)
        student = EncoderModule(loaded, "cpu", self.dtype)
        layout = choose_for_training(student, self.tokens[1], self.pad_id, training)
        self.engine = start_engine(student, training, 1)
        self.budget = activation_bytes(None, self.engine.module, "cpu")
        self.activations = Activations(self.engine, student, self.budget)
        self.stepper = Stepper(self.engine, *self.tokens, LossSettings(), self.activations, layout)
        self.weights = sum(p.numel() for name, p in loaded.named_parameters() if "embeddings" not in name)
        self.config = config = loaded.transformers_model.config
        length = int(self.tokens[1].lengths.mean()) // 16 * 16
        self.products = Products(
            self.dtype, config.hidden_size, config.intermediate_size, config.num_attention_heads, length, MICRO_BATCH
        )
        self.orders = {
            name: epoch_order(self.rows, 0, 0, block) for name, block in (("shuffled", 1), ("topics", TOPIC))
        }
        self.order = self.orders["shuffled"]

    def prepare(self, count: int, order: str) -> Prepared:
        """The first step of `count` queries in this order."""
        plan = plan_step(self.orders[order][:count], self.rows, *(each.lengths for each in self.tokens), 1, MICRO_BATCH)
        return self.stepper.prepare(plan, self.scores[plan.queries])

    def reserve(self, count: int, order: str, kept_mib: int | None) -> None:
        """Takes the memory that steps of this kind need, as a training's first step does."""
        self.activations.most_bytes = self.kept_bytes(kept_mib)
        self.activations.plan(self.prepare(count, order).work)
        touch(self.activations.step_bytes)

    def ours(self, count: int, order: str = "shuffled", kept_mib: int | None = None) -> dict[str, float]:
        """One step of `count` queries as the trainer does it, with so much memory for activations."""
        self.activations.most_bytes = self.kept_bytes(kept_mib)
        with Meanwhile(self.products, self.engine.module) as products:
            begun = time.perf_counter()
            prepared = self.prepare(count, order)
            result = self.stepper.run(prepared)
            step_optimizer(self.engine)
            seconds = time.perf_counter() - begun - products.taken
        plan = prepared.plan
        return {
            "seconds": seconds, "tokens": result.tokens, "repeats": plan.repeats,
            "padding": 1 - result.tokens / result.computed_tokens,
            "recomputed": result.recomputed_tokens / result.computed_tokens,
            "reused": result.reused, "balance": self.balance(self.orders[order][:count]),
            "flops": self.useful_flops(plan) / seconds, "products": products.flops,
        }  # fmt: skip

    def kept_bytes(self, kept_mib: int | None) -> int:
        """Bytes for activations; the trainer's default, as it was when the benchmark began, if none are named."""
        return self.budget if kept_mib is None else kept_mib * MIB

    def useful_flops(self, plan: StepPlan) -> float:
        """Forward and backward, attention included (arXiv 2204.02311, appendix B); recomputation is not useful work."""
        lengths = np.concatenate([self.tokens[0].lengths[plan.queries], self.tokens[1].lengths[plan.passages]])
        looked_at = float((lengths.astype(np.int64) ** 2).sum())
        attention = 12 * self.config.num_hidden_layers * self.config.hidden_size
        return 6 * self.weights * float(lengths.sum()) + attention * looked_at

    def balance(self, queries: np.ndarray) -> float:
        """Tokens of the fullest of `RANKS` ranks over their mean, were the step dealt to so many."""
        lengths = [each.lengths for each in self.tokens]
        plan = plan_step(queries, self.rows, *lengths, RANKS, MICRO_BATCH)
        shares = zip(plan.query_shares, plan.passage_shares, strict=True)
        loads = [
            lengths[0][plan.queries[q.start : q.stop]].sum() + lengths[1][plan.passages[p.start : p.stop]].sum()
            for q, p in shares
        ]
        return float(np.max(loads) / np.mean(loads))

    def every_slot(self, count: int, touched: int = SLOT_BYTES) -> dict[str, float]:
        """One step that encodes all slots, padded to the batch's longest passage, everything recomputed (GradCache).

        A model of its own, that attends as it was loaded. So many bytes of memory are ready for it.
        """
        queries = self.order[:count]
        slots = self.rows[queries].reshape(-1)
        longest = int(self.tokens[1].lengths[slots].max())
        parts = np.array_split(slots, max(1, len(slots) * longest // SLOT_MICRO_BATCH))
        student = load_model(self.settings, "cpu")
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)

        def encode(rows: np.ndarray, tokens: TokenFile, width: int) -> torch.Tensor:
            ids, mask = tokens.padded(rows, self.pad_id)
            missing = (0, width - ids.shape[1])
            features = {
                "input_ids": F.pad(ids, missing, value=self.pad_id), "attention_mask": F.pad(mask, missing),
                "modality": "text",
            }  # fmt: skip
            return embed(student, features, "cpu", self.dtype)

        touch(touched)
        begun = time.perf_counter()
        with torch.no_grad():
            passages = torch.cat([encode(part, self.tokens[1], longest) for part in parts])
        asked = encode(queries, self.tokens[0], int(self.tokens[0].lengths[queries].max()))
        places = torch.arange(len(slots)).reshape(count, LENGTH)
        _, for_queries, for_passages = loss_and_gradients(
            asked.detach(), passages, places, torch.from_numpy(self.scores[queries]), torch.ones(len(slots)), count,
            LossSettings(),
        )  # fmt: skip
        (asked * for_queries).sum().backward()
        start = 0
        for part in parts:
            embedding = encode(part, self.tokens[1], longest)
            (embedding * for_passages[start : start + len(part)]).sum().backward()
            start += len(part)
        optimizer.step()
        return {"seconds": time.perf_counter() - begun, "tokens": float(self.tokens[1].lengths[slots].sum())}

    def library(self, count: int, batch: int) -> dict[str, float]:
        """sentence-transformers' trainer with DistillKLDivLoss over `count` queries; the first step is warm-up."""
        from datasets import Dataset
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
        from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
        from transformers import TrainerCallback

        chosen = self.order[: count + batch]
        columns: dict[str, Any] = {"query": [self.queries[row] for row in chosen]}
        for slot in range(LENGTH):
            columns[f"passage_{slot}"] = [self.passages[row] for row in self.rows[chosen, slot]]
        columns["label"] = self.scores[chosen].tolist()
        model = load_model(self.settings, "cpu").train()
        stamps: list[float] = []

        class Stamp(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                stamps.append(time.perf_counter())

        arguments = SentenceTransformerTrainingArguments(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=batch, num_train_epochs=1, use_cpu=True,
            bf16=self.dtype == torch.bfloat16, report_to=[], save_strategy="no", logging_strategy="no",
            disable_tqdm=True, learning_rate=1e-5,
        )  # fmt: skip
        loss = DistillKLDivLoss(model, student_temperature=0.05, teacher_temperature=0.3)
        SentenceTransformerTrainer(
            model, arguments, train_dataset=Dataset.from_dict(columns), loss=loss, callbacks=[Stamp()]
        ).train()
        tokens = float(self.tokens[1].lengths[self.rows[chosen[batch:]]].sum())
        return {"seconds": stamps[-1] - stamps[0], "tokens": tokens * (len(stamps) - 1) * batch / count}


@dataclass
class Row:
    """A kind of step and what was found of it.

    Attributes:
        count, order: queries, and the order that they were taken in.
        found: of the step whose time is the median of its repetitions.
        gib: most resident memory.
        slots_before, slots_after: seconds that a query cost the step of all slots.
    """

    count: int
    order: str
    found: dict[str, float]
    gib: float
    slots_before: float
    slots_after: float


def library_alone(dataset: Path, model: str) -> tuple[float, float]:
    """Queries per second of sentence-transformers' trainer and its peak memory in GiB, in a process of its own."""
    bench = Bench(dataset, model)
    with Peak() as memory:
        seconds = bench.library(LIBRARY, LIBRARY // 2)["seconds"]
    return LIBRARY / seconds, memory.gib


def measure(bench: Bench, counts: list[int], sliced: int, kept_mib: int) -> Iterator[Row]:
    """All rows, each between two slices of the step of all slots, for a machine changes its speed."""
    # a step of most of the corpus repeats alike in any order
    steps: list[tuple[int, str, int | None]] = [
        (count, order, None)
        for count in counts
        for order in (bench.orders if count * LENGTH < REPEATED * len(bench.passages) else ["shuffled"])
    ]
    bench.ours(16)
    after = bench.every_slot(sliced)
    for count, order, kept in [*steps, (counts[0], "topics", kept_mib)]:
        bench.stepper.release()
        trim_freed_memory()  # of whoever came before
        before, found = after, []
        with Peak() as memory:
            bench.reserve(count, order, kept)
            for _ in range(REPEATS if count < SHORT else 1):
                found.append(bench.ours(min(count, len(bench.order)), order, kept))
                trim_freed_memory(needed=bench.stepper.step_bytes)  # as the trainer
        bench.stepper.release()
        trim_freed_memory()
        after = bench.every_slot(sliced)
        middle = sorted(found, key=lambda each: each["seconds"])[len(found) // 2]
        yield Row(count, order, middle, memory.gib, before["seconds"] / sliced, after["seconds"] / sliced)


def table(bench: Bench, counts: list[int], sliced: int, kept_mib: int) -> str:
    """The comparison as Markdown; the smallest step by topic once more with `kept_mib` for activations.

    Its lines are printed as they come, for all of them take half an hour.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:  # it takes 20 GiB
        library_rate, library_gib = alone.submit(library_alone, bench.dataset, bench.model_name).result()
    best = bench.products.best()
    with Peak() as slot_memory:
        bench.every_slot(sliced // 4, touched=0)
    lines = [
        "| queries a step | order | queries/s | useful tokens/s | repeats removed | padding "
        f"| fullest of {RANKS} ranks : mean | MFU, of the best | MFU, of the mean meanwhile | recomputed "
        "| of it reused | memory, peak | : every slot | : sentence-transformers |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    rows = []
    for row in measure(bench, counts, sliced, kept_mib):
        rows.append(row)
        found, rate = row.found, row.count / row.found["seconds"]
        lines.append(
            f"| {row.count:,} | {row.order} | {rate:.2f} | {found['tokens'] / found['seconds']:,.0f} | "
            f"{found['repeats']:.2f}× | {found['padding']:.1%} | {found['balance']:.3f} | "
            f"{found['flops'] / best:.0%} | {found['flops'] / found['products']:.0%} | "
            f"{found['recomputed']:.0%} | {found['reused']:.0%} | {row.gib:.1f} GiB | "
            f"{rate * (row.slots_before + row.slots_after) / 2:.1f}× | {rate / library_rate:.1f}× |"
        )
        print(lines[-1], flush=True)
    slots = sorted(sliced * each for row in rows for each in (row.slots_before, row.slots_after))
    slowest, fastest = (take(row.found["products"] for row in rows) / 1e9 for take in (min, max))
    lines += [
        "",
        f"{bench.model_name}, {len(bench.queries):,} lists of {LENGTH} over {len(bench.passages):,} passages of at "
        f"most {MAX_TOKENS} tokens, {torch.get_num_threads()} threads, {str(bench.dtype).removeprefix('torch.')}, "
        f"{bench.budget / 2**30:.1f} GiB for activations; "
        f"a layer's matrix products alone reach {best / 1e9:,.0f} GFLOP/s in the best of {PEAK_PASSES} passes, and "
        f"{slowest:,.0f} to {fastest:,.0f} between the passes of a step, in the mean of each row's. Every slot: "
        f"{sliced} queries, before and after each row, in {slots[0]:.1f} to {slots[-1]:.1f} s, {slot_memory.gib:.1f} "
        f"GiB. sentence-transformers: DistillKLDivLoss, 8 queries a step, {library_rate:.2f} queries/s, "
        f"{library_gib:.1f} GiB.",
    ]
    print("\n".join(lines[-2:]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=Path("../shared/data/scifact"))
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--queries", type=int, nargs="+", default=[64, 256, 2048])
    parser.add_argument("--slice", type=int, default=32)
    parser.add_argument("--kept-mib", type=int, default=12_288, help="activations of the last row")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    if not (options.dataset / "corpus.jsonl").is_file():
        parser.exit(0, f"no BEIR folder at {options.dataset}: name one with --dataset\n")
    text = table(Bench(options.dataset, options.model), options.queries, options.slice, options.kept_mib)
    if options.write:
        page = options.write.read_text() if options.write.exists() else "# Measurements\n"
        command = f"`python -m benchmarks.train_step --queries {' '.join(map(str, options.queries))}`:"
        section = f"## Training step\n\n{command}\n\n{text}\n"
        page = re.sub(r"\n## Training step\n.*?(?=\n## |\Z)", "", page, flags=re.S).rstrip() + "\n\n" + section
        options.write.write_text(page)


if __name__ == "__main__":
    main()
