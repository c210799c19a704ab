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
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import PEAK_PASSES, Peak
from benchmarks.steps import RANKS, Bench, Lists
from cluster.machines.malloc import trim_freed_memory
from distill.encoders.texts import passage_text
from distill.retrieval.bm25 import Bm25Index

LENGTH, MAX_TOKENS = 20, 256
REPEATED = 4  # slots for each passage of the corpus, from which on the order makes no difference
REPEATS, SHORT = 3, 128  # a step of fewer than SHORT queries is repeated REPEATS times
LIBRARY = 16  # queries that sentence-transformers' trainer is timed on


def read_lists(dataset: Path) -> Lists:
    """BM25's twenty best passages of every query and every title, with scores divided by the best one."""
    corpus = [json.loads(line) for line in (dataset / "corpus.jsonl").open()]
    passages = [passage_text(record.get("title"), record["text"]) for record in corpus]
    queries = [json.loads(line)["text"] for line in (dataset / "queries.jsonl").open()]
    queries += [record["title"] for record in corpus if record.get("title")]
    hits = Bm25Index([passages]).search(queries, LENGTH)
    full = (hits.rows >= 0).all(axis=1)
    rows, scores = hits.rows[full].astype(np.int64), hits.scores[full].astype(np.float32)
    full_queries = [query for query, is_full in zip(queries, full, strict=True) if is_full]
    return Lists(full_queries, passages, rows, scores / scores.max(axis=1, keepdims=True))


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
    bench = Bench(read_lists(dataset), model, MAX_TOKENS)
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


def table(bench: Bench, dataset: Path, counts: list[int], sliced: int, kept_mib: int) -> str:
    """The comparison as Markdown; the smallest step by topic is measured once more with `kept_mib` for activations.

    Each line is printed as soon as it is measured, because all of them take half an hour.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:  # it needs 20 GiB
        library_rate, library_gib = process.submit(library_alone, dataset, bench.model_name).result()
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
    bench = Bench(read_lists(options.dataset), options.model, MAX_TOKENS)
    text = table(bench, options.dataset, options.queries, options.slice, options.kept_mib)
    if options.write:
        page = options.write.read_text() if options.write.exists() else "# Measurements\n"
        command = f"`python -m benchmarks.train_step --queries {' '.join(map(str, options.queries))}`:"
        section = f"## Training step\n\n{command}\n\n{text}\n"
        page = re.sub(r"\n## Training step\n.*?(?=\n## |\Z)", "", page, flags=re.S).rstrip() + "\n\n" + section
        options.write.write_text(page)


if __name__ == "__main__":
    main()
