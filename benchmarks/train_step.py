"""The cost of a training step that encodes each passage once, against two others.

The second one encodes every slot of every list. The third one is that of sentence-transformers' trainer.

    python -m benchmarks.train_step --dataset FOLDER [--queries 64 256 2048] [--write docs/benchmarks.md]

All run in one process with the same lists, student, arithmetic and optimizer. Queries are those of the data set and the
titles of its passages; BM25 makes the lists. There are many slots, so the step that encodes all of them is timed on
`--slice` queries. Its cost per slot is constant: slots are padded to one length, in equal micro-batches. The speed of a
shared machine changes. So that step is timed before and after every row, and a layer's matrix products are timed
between the passes of every step.
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

from benchmarks.machine import PEAK_PASSES, Peak, Products, SpeedDuringStep, touch
from cluster.machines.malloc import trim_freed_memory
from distill.activations.activations import Activations
from distill.activations.budget import MIB, activation_bytes
from distill.encoders.compute.choose import choose_for_training
from distill.encoders.device import resolve_dtype
from distill.encoders.loading import load_model
from distill.encoders.module import EncoderModule, embed
from distill.encoders.reading import Reading
from distill.encoders.texts import passage_text
from distill.encoders.tokens import TokenFile, write_tokens
from distill.losses.batch import LossSettings, loss_and_gradients
from distill.retrieval.bm25 import Bm25Index
from distill.settings.encoders import StudentSettings
from distill.settings.training import TrainingSettings
from distill.training.batches import StepPlan, epoch_order, plan_step
from distill.training.deepspeed_engine import start_engine, step_optimizer
from distill.training.process_group import join_ranks
from distill.training.step import Prepared, Stepper

LENGTH, MAX_TOKENS, MICRO_BATCH = 20, 256, TrainingSettings().micro_batch_tokens
SLOT_MICRO_BATCH = 4096  # tokens, of the step of all slots: it is fastest with this size
TOPIC = 64  # queries of one topic, in the order by topic
REPEATED = 4  # slots for each passage of the corpus, from which on the order makes no difference
REPEATS, SHORT = 3, 128  # a step of fewer than SHORT queries is repeated REPEATS times
LIBRARY = 16  # queries that sentence-transformers' trainer is timed on
SLOT_BYTES = 3 * 2**30  # memory that the step of all slots needs; it gets it from the system before it is timed
RANKS = 8  # number of ranks for which the balance of tokens is computed


def read_lists(dataset: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Query texts, passage texts, BM25's best rows (N, 20), and their scores (N, 20), divided by the best score."""
    corpus = [json.loads(line) for line in (dataset / "corpus.jsonl").open()]
    passages = [passage_text(record.get("title"), record["text"]) for record in corpus]
    queries = [json.loads(line)["text"] for line in (dataset / "queries.jsonl").open()]
    queries += [record["title"] for record in corpus if record.get("title")]
    hits = Bm25Index([passages]).search(queries, LENGTH)
    full = (hits.rows >= 0).all(axis=1)
    rows, scores = hits.rows[full].astype(np.int64), hits.scores[full].astype(np.float32)
    full_queries = [query for query, is_full in zip(queries, full, strict=True) if is_full]
    return full_queries, passages, rows, scores / scores.max(axis=1, keepdims=True)


class Bench:
    """The student, optimizer, tokens and lists that all three steps share."""

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
        write_tokens(folder / "queries", self.queries, Reading(loaded, "query", 64).token_ids)
        write_tokens(folder / "passages", self.passages, Reading(loaded, "document", MAX_TOKENS).token_ids)
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
            start = time.perf_counter()
            prepared = self.prepare(count, order)
            result = self.stepper.run(prepared)
            step_optimizer(self.engine)
            seconds = time.perf_counter() - start - products.taken
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
        start_s = time.perf_counter()
        with torch.no_grad():
            passages = torch.cat([encode(part, self.tokens[1], longest) for part in parts])
        query_embeddings = encode(queries, self.tokens[0], int(self.tokens[0].lengths[queries].max()))
        places = torch.arange(len(slots)).reshape(count, LENGTH)
        _, query_gradients, passage_gradients = loss_and_gradients(
            query_embeddings.detach(), passages, places, torch.from_numpy(self.scores[queries]),
            torch.ones(len(slots)), count, LossSettings(),
        )  # fmt: skip
        (query_embeddings * query_gradients).sum().backward()
        start = 0
        for part in parts:
            embedding = encode(part, self.tokens[1], longest)
            (embedding * passage_gradients[start : start + len(part)]).sum().backward()
            start += len(part)
        optimizer.step()
        return {"seconds": time.perf_counter() - start_s, "tokens": float(self.tokens[1].lengths[slots].sum())}

    def library(self, count: int, batch: int) -> dict[str, float]:
        """Runs sentence-transformers' trainer with DistillKLDivLoss on `count` queries, after a warm-up step."""
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
    """The figures of one kind of step.

    Attributes:
        count, order: number of its queries, and their order.
        figures: result of `Bench.ours`, for the repetition with the median time.
        gib: peak resident memory.
        slots_before, slots_after: seconds per query of the step of all slots, before and after.
    """

    count: int
    order: str
    figures: dict[str, float]
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
    """Measures all rows, each between two timings of the step of all slots, because the machine's speed changes."""
    # A step with most of the corpus has the same repeats in any order.
    steps: list[tuple[int, str, int | None]] = [
        (count, order, None)
        for count in counts
        for order in (bench.orders if count * LENGTH < REPEATED * len(bench.passages) else ["shuffled"])
    ]
    bench.ours(16)
    after = bench.every_slot(sliced)
    for count, order, kept in [*steps, (counts[0], "topics", kept_mib)]:
        bench.stepper.release()
        trim_freed_memory()  # of the measurement before
        before, results = after, []
        with Peak() as memory:
            bench.reserve(count, order, kept)
            for _ in range(REPEATS if count < SHORT else 1):
                results.append(bench.ours(min(count, len(bench.order)), order, kept))
                trim_freed_memory(needed=bench.stepper.step_bytes)  # as the trainer does
        bench.stepper.release()
        trim_freed_memory()
        after = bench.every_slot(sliced)
        median = sorted(results, key=lambda result: result["seconds"])[len(results) // 2]
        yield Row(count, order, median, memory.gib, before["seconds"] / sliced, after["seconds"] / sliced)


def table(bench: Bench, counts: list[int], sliced: int, kept_mib: int) -> str:
    """The comparison as Markdown; the smallest step by topic is measured once more with `kept_mib` for activations.

    Each line is printed as soon as it is measured, because all of them take half an hour.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:  # it needs 20 GiB
        library_rate, library_gib = process.submit(library_alone, bench.dataset, bench.model_name).result()
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
        figures, rate = row.figures, row.count / row.figures["seconds"]
        lines.append(
            f"| {row.count:,} | {row.order} | {rate:.2f} | {figures['tokens'] / figures['seconds']:,.0f} | "
            f"{figures['repeats']:.2f}× | {figures['padding']:.1%} | {figures['balance']:.3f} | "
            f"{figures['flops'] / best:.0%} | {figures['flops'] / figures['products']:.0%} | "
            f"{figures['recomputed']:.0%} | {figures['reused']:.0%} | {row.gib:.1f} GiB | "
            f"{rate * (row.slots_before + row.slots_after) / 2:.1f}× | {rate / library_rate:.1f}× |"
        )
        print(lines[-1], flush=True)
    slots = sorted(sliced * seconds for row in rows for seconds in (row.slots_before, row.slots_after))
    slowest, fastest = (choose(row.figures["products"] for row in rows) / 1e9 for choose in (min, max))
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
