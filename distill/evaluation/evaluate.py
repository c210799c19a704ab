"""Evaluates one encoder on a judged collection, in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import InputError
from cluster.files.ownership import owned
from cluster.watch.progress import Progress
from distill.encoders.encoder import Encoder
from distill.evaluation import judged
from distill.evaluation.encode_on_workers import PASSAGES_PER_BLOCK
from distill.evaluation.judged import JudgedCollection
from distill.evaluation.metrics import SPARE_HITS, EvaluationResult, evaluate_hits, trec_run
from distill.retrieval.search import Block, search
from distill.settings.encoders import EncoderSettings

LOCK = "owner.lock"
PASSAGES_PER_ADVANCE = 512  # encoded between two updates of the progress bar


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

    An `owner.lock` stays beside them: of two evaluations into one folder the second waits to write its files.

    Args:
        model: the encoder.
        dataset: BEIR folder.
        split: name of the qrels file.
        output: folder for the three files; it need not exist.
        depth: passages per query in the run.
        max_queries: evaluate on a sample of this many queries, drawn with `seed`.
        dimensions: where embeddings are cut before they are normalised again; None: whole embeddings.
        seed: seed of the sample.
        progress: where progress is shown.

    Returns:
        The content of metrics.json: the three metrics, `queries`, `passages`, and what was evaluated.

    Raises:
        InputError: the collection or the model cannot be read, or `output` cannot be written; no file is written then.
    """
    output = Path(output)
    _check_output(output)
    collection = judged.read(dataset, split, max_queries, seed)
    progress = progress or Progress()
    for note in collection.notes:
        progress.say(note)
    result = evaluate_collection(
        model, collection, depth=depth, dimensions=dimensions, title="evaluation", progress=progress
    )
    metrics = {
        **result.metrics,
        "queries": len(collection.query_ids),
        "passages": len(collection.passage_ids),
        "unknown_passages": collection.unknown,
        "dataset": str(dataset),
        "split": split,
        "model": model.model,
        "depth": depth,
        **({"dimensions": dimensions} if dimensions else {}),
    }
    lines = [
        json.dumps({"query_id": query, **{name: values[query] for name, values in result.per_query.items()}})
        for query in collection.query_ids
    ]
    _write(output, {
        "run.trec": trec_run(result.run, model.model),
        "per_query.jsonl": "".join(line + "\n" for line in lines).encode(),
        "metrics.json": (json.dumps(metrics, indent=1) + "\n").encode(),
    })  # fmt: skip
    return metrics


def _write(output: Path, files: dict[str, bytes]) -> None:
    """Writes the files of one evaluation; of two at a time, all files are those of the one that ends last."""
    with owned(output / LOCK):
        for name, data in files.items():
            whole = output / f".{name}.part"
            whole.write_bytes(data)
            whole.replace(output / name)


def _check_output(output: Path) -> None:
    """Checks that files can be written to `output`, before the evaluation whose results they hold; creates nothing.

    Raises:
        InputError: the nearest folder that exists is a file or may not be written to.
    """
    nearest = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        reason = "cannot be written to" if nearest.is_dir() else "is a file"
        raise InputError(
            f"output {output}: {nearest} {reason}. Expected a folder for metrics.json and run.trec, or a new name."
        )


def evaluate_collection(
    model: EncoderSettings,
    collection: JudgedCollection,
    *,
    depth: int,
    dimensions: int | None = None,
    title: str,
    progress: Progress,
) -> EvaluationResult:
    """Encodes a collection in this process, searches it, and computes the metrics of the hits.

    Args:
        model: the encoder.
        collection: P passages and Q judged queries.
        depth: passages per query in the run.
        dimensions: where embeddings are cut before they are normalised again; None: whole embeddings.
        title: title of the progress bar.
        progress: where progress is shown.

    Raises:
        InputError: the model cannot be read, or has fewer dimensions.
    """
    encoder = Encoder(model, dimensions=dimensions)
    needed = collection.hits_needed(depth + SPARE_HITS)
    with progress.task(title, len(collection.passage_ids) + len(collection.queries), "texts") as handle:
        queries = encoder.encode_queries(collection.queries)
        handle.advance(len(queries))
        hits = search(queries, _encoded_blocks(encoder, collection, handle.advance), needed)
    return evaluate_hits(collection, hits, depth)


def _encoded_blocks(encoder: Encoder, collection: JudgedCollection, advance: Callable[[int], None]) -> Iterator[Block]:
    """Blocks of at most `PASSAGES_PER_BLOCK` encoded passages; `advance` gets the passages of each encoded part."""
    total = len(collection.passage_ids)
    for first in range(0, total, PASSAGES_PER_BLOCK):
        last = min(first + PASSAGES_PER_BLOCK, total)
        vectors = []
        for start in range(first, last, PASSAGES_PER_ADVANCE):
            part = slice(start, min(start + PASSAGES_PER_ADVANCE, last))
            vectors.append(encoder.encode_passages(collection.titles[part], collection.texts[part]))
            advance(len(vectors[-1]))
        yield Block.of(np.arange(first, last, dtype=np.int64), np.concatenate(vectors))
