"""Evaluates one encoder on a judged collection, in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import InputError
from cluster.watch.progress import Progress
from distill.encoders.encoder import Encoder
from distill.evaluation import judged
from distill.evaluation.encode_on_workers import PASSAGES_PER_BLOCK
from distill.evaluation.judged import Judged
from distill.evaluation.metrics import SPARE, Evaluated, judge, trec_run
from distill.retrieval.search import Block, search
from distill.settings import EncoderSettings

PASSAGES_AT_ONCE = 512  # encoded between two looks at the progress bar


def evaluate(
    model: EncoderSettings,
    dataset: str | Path,
    split: str,
    output: str | Path,
    *,
    depth: int = 100,
    max_queries: int | None = None,
    dimensions: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluates an encoder on a BEIR folder; writes `metrics.json`, `run.trec` and `per_query.jsonl` to `output`.

    Returns:
        The content of metrics.json: the three metrics, `queries`, `passages`, and what was evaluated.

    Raises:
        InputError: the collection or the model cannot be read, or `output` cannot be written; nothing is written then.
    """
    output = Path(output)
    _check_output(output)
    collection = judged.read(dataset, split, max_queries, seed)
    result = evaluate_on(
        model, collection, depth=depth, dimensions=dimensions, title="evaluation", progress=progress or Progress()
    )
    metrics = {
        **result.metrics,
        "queries": len(collection.query_ids),
        "passages": len(collection.passage_ids),
        "dataset": str(dataset),
        "split": split,
        "model": model.model,
        "depth": depth,
        **({"dimensions": dimensions} if dimensions else {}),
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "run.trec").write_bytes(trec_run(result.run, model.model))
    lines = [
        json.dumps({"query_id": query, **{name: values[query] for name, values in result.per_query.items()}})
        for query in collection.query_ids
    ]
    (output / "per_query.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    (output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    return metrics


def _check_output(output: Path) -> None:
    """Looks whether files can be written there, before the work whose result they hold; makes nothing."""
    there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "cannot be written to" if there.is_dir() else "is a file"
        raise InputError(
            f"output {output}: {there} {why}. Expected a folder for metrics.json and run.trec, or a new name."
        )


def evaluate_on(
    model: EncoderSettings,
    collection: Judged,
    *,
    depth: int,
    dimensions: int | None = None,
    title: str,
    progress: Progress,
) -> Evaluated:
    """Encodes and searches a collection that is already read, in this process, and judges what was found."""
    encoder = Encoder(model, dimensions=dimensions)
    with progress.task(title, len(collection.passage_ids) + len(collection.queries), "texts") as handle:
        queries = encoder.encode_queries(collection.queries)
        handle.advance(len(queries))

        def blocks() -> Iterator[Block]:
            total = len(collection.passage_ids)
            for first in range(0, total, PASSAGES_PER_BLOCK):
                rows = np.arange(first, min(first + PASSAGES_PER_BLOCK, total), dtype=np.int64)
                parts = []
                for start in range(first, int(rows[-1]) + 1, PASSAGES_AT_ONCE):
                    part = slice(start, min(start + PASSAGES_AT_ONCE, int(rows[-1]) + 1))
                    parts.append(encoder.encode_passages(collection.titles[part], collection.texts[part]))
                    handle.advance(len(parts[-1]))
                yield Block.of(rows, np.concatenate(parts))

        hits = search(queries, blocks(), depth + SPARE)
    return judge(collection, hits, depth)
