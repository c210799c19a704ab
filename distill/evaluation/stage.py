"""Evaluation: how well an encoder finds the judged passages, and whether a student does it better than its base.

Search is exact over the whole collection. Metrics are those of trec_eval through ir_measures, computed on the very run
that is written, so that anyone can check them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.encoders.texts import passage_text
from distill.evaluation import encode_on_workers as pooled
from distill.evaluation import judged
from distill.evaluation.evaluate import evaluate_on
from distill.evaluation.judged import Judged
from distill.evaluation.metrics import SPARE, Evaluated, judge, trec_run
from distill.evaluation.statistics import paired_difference, verdict
from distill.settings import EncoderSettings, EvaluationSettings, StudentSettings

if TYPE_CHECKING:
    from cluster.run import Run

SHOWN_QUERIES = 20
SHOWN_PASSAGES = 3
SHOWN_CHARACTERS = 300


def compare(before: Evaluated, after: Evaluated, collection: Judged, seed: int) -> dict[str, Any]:
    """Base against student on the same queries, as JSON: `base`, `student`, `difference` of nDCG@10, `verdict`,
    `recommended`."""
    values = [
        np.array([result.per_query["ndcg@10"][query] for query in collection.query_ids]) for result in (before, after)
    ]
    difference = paired_difference(values[0], values[1], seed)
    recommended, sentence = verdict(difference, len(collection.query_ids))
    return {
        "queries": len(collection.query_ids),
        "passages": len(collection.passage_ids),
        "base": before.metrics,
        "student": after.metrics,
        "difference": asdict(difference),
        "recommended": recommended,
        "verdict": sentence,
    }


def build(
    run: Run, evaluation: EvaluationSettings, dataset: str | Path, base: StudentSettings, student_path: str | Path
) -> dict[str, Any]:
    """Judges base and student, once per content of both; writes `evaluation/` in the workdir.

    Files: metrics.json (the comparison), base.trec, student.trec, per_query.jsonl (query, both nDCG@10), and
    examples.json (the largest wins and losses with the first passages of both models).

    Args:
        run: the run.
        evaluation: split, depth, sample; the pool that encodes, if not this process.
        dataset: BEIR folder on this machine.
        base: the student's settings; its model is the base.
        student_path: folder of the trained model on this machine.

    Returns:
        The comparison, as in metrics.json.
    """
    dataset, student_path = Path(dataset), Path(student_path)
    student = base.model_copy(update={"model": str(student_path), "pooling": "auto"})

    of_collection = {
        "dataset": digest(dataset),
        "settings": evaluation.model_dump(mode="json", exclude={"dataset", "pool"}),
    }

    def produce() -> dict[str, Any]:
        collection = judged.read(dataset, evaluation.split, evaluation.max_queries, evaluation.seed)
        depth, dimensions = evaluation.depth, evaluation.dimensions
        tables = pooled.write_collection(run.storage, collection, of_collection) if evaluation.pool else None

        def evaluated(side: str, model: EncoderSettings) -> Evaluated:
            if tables is None or evaluation.pool is None:
                title = f"evaluation: {side}"
                return evaluate_on(
                    model, collection, depth=depth, dimensions=dimensions, title=title, progress=run.progress
                )
            hits = pooled.find(run, side, model, evaluation.pool, tables, depth=depth + SPARE, dimensions=dimensions)
            return judge(collection, hits, depth)

        before, after = evaluated("base", base), evaluated("student", student)
        summary = compare(before, after, collection, evaluation.seed)
        values = {"base": before.per_query["ndcg@10"], "student": after.per_query["ndcg@10"]}
        lines = [
            json.dumps({"query_id": query, "text": text, **{name: each[query] for name, each in values.items()}})
            for query, text in zip(collection.query_ids, collection.queries, strict=True)
        ]
        files = {
            "base.trec": trec_run(before.run, "base"),
            "student.trec": trec_run(after.run, "student"),
            "per_query.jsonl": "".join(line + "\n" for line in lines).encode(),
            "examples.json": json.dumps(examples(collection, before, after), indent=1).encode(),
            "metrics.json": json.dumps(summary, indent=1).encode(),
        }
        for name, content in files.items():
            run.storage.put(f"evaluation/{name}", content)
        return summary

    fingerprint = {
        "base": base.model_dump(mode="json", exclude={"batch_tokens"}),
        "student": digest(student_path),
        **of_collection,
    }
    return run.execute_in_process("evaluation", fingerprint, produce, title="evaluation")


def examples(collection: Judged, base: Evaluated, student: Evaluated) -> dict[str, list[dict[str, Any]]]:
    """The largest wins and losses of the student, with the first passages that both models find."""
    before, after = base.per_query["ndcg@10"], student.per_query["ndcg@10"]
    at = {passage: row for row, passage in enumerate(collection.passage_ids)}
    order = sorted(
        range(len(collection.query_ids)),
        key=lambda number: before[collection.query_ids[number]] - after[collection.query_ids[number]],
    )

    def passages(result: Evaluated, query: str) -> list[dict[str, Any]]:
        shown = []
        for passage, score in list(result.run[query].items())[:SHOWN_PASSAGES]:
            row = at[passage]
            text = passage_text(collection.titles[row], collection.texts[row])[:SHOWN_CHARACTERS]
            grade = collection.qrels[query].get(passage, 0)
            shown.append({"passage_id": passage, "text": text, "score": score, "grade": grade})
        return shown

    def example(number: int) -> dict[str, Any]:
        query = collection.query_ids[number]
        return {
            "query_id": query,
            "text": collection.queries[number],
            "base": before[query],
            "student": after[query],
            "base_passages": passages(base, query),
            "student_passages": passages(student, query),
        }

    def differs(number: int) -> float:
        return after[collection.query_ids[number]] - before[collection.query_ids[number]]

    wins = [example(number) for number in order[:SHOWN_QUERIES] if differs(number) > 0]
    losses = [example(number) for number in order[::-1][:SHOWN_QUERIES] if differs(number) < 0]
    return {"wins": wins, "losses": losses}


def digest(folder: Path) -> str:
    """One hash over names and contents of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return total.hexdigest()[:16]
