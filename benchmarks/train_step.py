"""What a training step costs: every passage once, against every slot encoded, against sentence-transformers' trainer.

    python -m benchmarks.train_step --dataset FOLDER [--queries 64 256 2048] [--write docs/benchmarks.md]

One process, the same lists, student, arithmetic and optimizer for all. Queries are the data set's own and the titles of
its passages; lists are BM25's. Slots are many, so the step that encodes all of them is timed on `--slice` queries and
its cost per slot is taken as constant, which it is: slots are padded to one length, in equal micro-batches.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F

from distill.batches import epoch_order, plan_step
from distill.bm25 import Bm25Index
from distill.encoder import load_model, passage_text, resolve_dtype
from distill.engine import join_ranks, release_memory, start_engine, step_optimizer
from distill.losses import LossSettings, loss_and_gradients
from distill.packed import Layout
from distill.settings import StudentSettings, TrainingSettings
from distill.step import Stepper, Student
from distill.tokens import TokenFile, write_tokens

LENGTH, MAX_TOKENS, MICRO_BATCH = 20, 256, 4096
TOPIC = 64  # queries that stand together in the order by topic


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


def peak_flops(dtype: torch.dtype) -> float:
    """Floating-point operations per second of the student's largest matrix product, the best of ten."""
    left, right = torch.randn(MICRO_BATCH, 384, dtype=dtype), torch.randn(384, 1536, dtype=dtype)
    best = 0.0
    for _ in range(10):
        begun = time.perf_counter()
        left @ right
        best = max(best, 2 * MICRO_BATCH * 384 * 1536 / (time.perf_counter() - begun))
    return best


class Bench:
    """Student, optimizer, tokens and lists that all contestants share."""

    def __init__(self, dataset: Path, model: str) -> None:
        join_ranks("cpu")
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
        self.engine = start_engine(Student(loaded, "cpu", self.dtype), training, 1)
        self.weights = sum(p.numel() for name, p in loaded.named_parameters() if "embeddings" not in name)
        self.orders = {
            name: epoch_order(self.rows, 0, 0, block) for name, block in (("shuffled", 1), ("topics", TOPIC))
        }
        self.order = self.orders["shuffled"]

    def ours(self, count: int, order: str = "shuffled") -> dict[str, float]:
        """One step of `count` queries as the trainer does it."""
        stepper = Stepper(self.engine, *self.tokens, LossSettings(), 2 * MICRO_BATCH, Layout(self.pad_id))
        release_memory()
        begun = time.perf_counter()
        plan = plan_step(self.orders[order][:count], self.rows, *(each.lengths for each in self.tokens), 1, MICRO_BATCH)
        result = stepper.run(stepper.prepare(plan, self.scores[plan.queries]))
        step_optimizer(self.engine)
        seconds = time.perf_counter() - begun
        return {
            "seconds": seconds, "tokens": result.tokens, "repeats": plan.repeats,
            "padding": 1 - result.tokens / result.computed_tokens,
            # Forward and backward take 6 operations a weight and token; recomputation is not useful work.
            "flops": 6 * self.weights * result.tokens / seconds,
        }  # fmt: skip

    def every_slot(self, count: int) -> dict[str, float]:
        """One step that encodes all slots, padded to the batch's longest passage, everything recomputed (GradCache)."""
        queries = self.order[:count]
        slots = self.rows[queries].reshape(-1)
        longest = int(self.tokens[1].lengths[slots].max())
        parts = np.array_split(slots, max(1, len(slots) * longest // MICRO_BATCH))
        student = self.engine.module

        def encode(rows: np.ndarray, tokens: TokenFile, width: int) -> torch.Tensor:
            ids, mask = tokens.padded(rows, self.pad_id)
            missing = (0, width - ids.shape[1])
            return student(F.pad(ids, missing, value=self.pad_id), F.pad(mask, missing))

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
        self.engine.optimizer.step()
        self.engine.optimizer.zero_grad()
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


class Peak:
    """Most resident memory of this process while the context lasts, in GiB, looked at every 20 ms."""

    def __enter__(self) -> Peak:
        self.gib, self._over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._over.wait(0.02):
            self.gib = max(self.gib, process.memory_info().rss / 2**30)


def table(bench: Bench, counts: list[int], sliced: int) -> str:
    """The comparison as Markdown."""
    peak = peak_flops(bench.dtype)
    bench.ours(16)
    with Peak() as slot_memory:
        slot_step = bench.every_slot(sliced)
    per_query = slot_step["seconds"] / sliced
    with Peak() as library_memory:
        library = bench.library(16, 8)
    library_rate = 16 / library["seconds"]
    lines = [
        "| queries a step | order | queries/s | useful tokens/s | repeats removed | padding | MFU | memory, peak "
        "| : every slot | : sentence-transformers |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for count in counts:
        for order in bench.orders:
            with Peak() as memory:
                found = bench.ours(min(count, len(bench.order)), order)
            rate = count / found["seconds"]
            lines.append(
                f"| {count:,} | {order} | {rate:.2f} | {found['tokens'] / found['seconds']:,.0f} | "
                f"{found['repeats']:.2f}× | {found['padding']:.1%} | {found['flops'] / peak:.0%} | "
                f"{memory.gib:.1f} GiB | {rate * per_query:.1f}× | {rate / library_rate:.1f}× |"
            )
    sizes = f"{len(bench.queries):,} lists of {LENGTH} over {len(bench.passages):,} passages"
    lines += [
        "",
        f"{bench.model_name}, {sizes} of at most "
        f"{MAX_TOKENS} tokens, {torch.get_num_threads()} threads, {str(bench.dtype).removeprefix('torch.')}; "
        f"matrix-product peak {peak / 1e9:,.0f} GFLOP/s. "
        f"Every slot: timed on {sliced} queries, {slot_step['tokens']:,.0f} tokens in "
        f"{slot_step['seconds']:.1f} s, {slot_memory.gib:.1f} GiB. sentence-transformers: DistillKLDivLoss, 8 queries "
        f"a step, {library_rate:.2f} queries/s, {library_memory.gib:.1f} GiB.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=Path("../shared/data/scifact"))
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--queries", type=int, nargs="+", default=[64, 256, 2048])
    parser.add_argument("--slice", type=int, default=32)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    if not (options.dataset / "corpus.jsonl").is_file():
        parser.exit(0, f"no BEIR folder at {options.dataset}: name one with --dataset\n")
    text = table(Bench(options.dataset, options.model), options.queries, options.slice)
    print(text)
    if options.write:
        page = options.write.read_text() if options.write.exists() else "# Measurements\n"
        command = f"`python -m benchmarks.train_step --queries {' '.join(map(str, options.queries))}`:"
        section = f"## Training step\n\n{command}\n\n{text}\n"
        page = re.sub(r"\n## Training step\n.*?(?=\n## |\Z)", "", page, flags=re.S).rstrip() + "\n\n" + section
        options.write.write_text(page)


if __name__ == "__main__":
    main()
