"""The evaluation stage: judges base and student on one collection and writes `evaluation/` in the workdir.

The search is exact over the whole collection. Metrics are computed on the same runs that are written, so that anyone
can check them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.tables.storage import Storage
from distill.evaluation import judged
from distill.evaluation.comparison import METRIC, compare, largest_changes
from distill.evaluation.encode_on_workers import encode_and_search, write_collection
from distill.evaluation.evaluate import evaluate_collection
from distill.evaluation.judged import JudgedCollection
from distill.evaluation.metrics import SPARE_HITS, EvaluationResult, evaluate_hits, trec_run
from distill.settings.encoders import EncoderSettings
from distill.settings.evaluation import EvaluationSettings

if TYPE_CHECKING:
    from cluster.run import Run


def build(
    run: Run, evaluation: EvaluationSettings, dataset: str | Path, base: EncoderSettings, student_path: str | Path
) -> dict[str, Any]:
    """Judges base and student, once for each content of both, and writes the files of `_write`.

    Args:
        run: the run.
        evaluation: split, depth, sample; the pool that encodes, or None for this process.
        dataset: BEIR folder on this machine.
        base: the student before training, as an encoder.
        student_path: folder of the trained model on this machine.

    Returns:
        The comparison, as in metrics.json.
    """
    dataset, student_path = Path(dataset), Path(student_path)
    trained = {"model": str(student_path), "revision": None, "pooling": "auto"}
    models = {"base": base, "student": base.model_copy(update=trained)}
    collection_fingerprint = {
        "dataset": folder_digest(dataset),
        "settings": evaluation.model_dump(mode="json", exclude={"dataset", "pool", "cut"}),
    }
    fingerprint = {
        "base": base.identity(mode="json", exclude={"batch_tokens"}),
        "student": folder_digest(student_path),
        **collection_fingerprint,
    }

    def judge_both() -> dict[str, Any]:
        collection = judged.read(dataset, evaluation.split, evaluation.max_queries, evaluation.seed)
        results = _evaluate(run, evaluation, collection, collection_fingerprint, models)
        comparison = compare(results["base"], results["student"], collection, evaluation.seed)
        _write(run.storage, collection, results, comparison)
        return comparison

    return run.execute_in_process("evaluation", fingerprint, judge_both, title="evaluation")


def _evaluate(
    run: Run,
    evaluation: EvaluationSettings,
    collection: JudgedCollection,
    fingerprint: dict[str, Any],
    models: dict[str, EncoderSettings],
) -> dict[str, EvaluationResult]:
    """The result of each model: encoded by the workers of `evaluation.pool`, or in this process without a pool."""
    depth, dimensions, pool = evaluation.depth, evaluation.dimensions, evaluation.pool
    if pool is None:
        return {
            side: evaluate_collection(
                model, collection, depth=depth, dimensions=dimensions, title=f"evaluation: {side}",
                progress=run.progress,
            )
            for side, model in models.items()
        }  # fmt: skip
    tables = write_collection(run.storage, collection, fingerprint)
    results = {}
    needed = collection.hits_needed(depth + SPARE_HITS)
    for side, model in models.items():
        hits = encode_and_search(run, side, model, pool, tables, depth=needed, dimensions=dimensions)
        results[side] = evaluate_hits(collection, hits, depth)
    return results


def _write(
    storage: Storage,
    collection: JudgedCollection,
    results: dict[str, EvaluationResult],
    comparison: dict[str, Any],
) -> None:
    """Writes `evaluation/`.

    Files: base.trec, student.trec; per_query.jsonl (query, nDCG@10 of both); examples.json (the largest wins and losses
    with the first passages of both models); metrics.json (the comparison).
    """
    lines = [
        {"query_id": query, "text": text, **{side: result.per_query[METRIC][query] for side, result in results.items()}}
        for query, text in zip(collection.query_ids, collection.queries, strict=True)
    ]
    changes = largest_changes(collection, results["base"], results["student"])
    files = {
        **{f"{side}.trec": trec_run(result.run, side) for side, result in results.items()},
        "per_query.jsonl": "".join(json.dumps(line) + "\n" for line in lines).encode(),
        "examples.json": json.dumps(changes, indent=1).encode(),
        "metrics.json": json.dumps(comparison, indent=1).encode(),
    }
    for name, content in files.items():
        storage.put(f"evaluation/{name}", content)


def folder_digest(folder: Path) -> str:
    """One hash over names and contents of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return total.hexdigest()[:16]
