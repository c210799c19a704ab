"""Evaluation: how well an encoder finds the judged passages, and whether a student does it better than its base.

Search is exact over the whole collection. Metrics are those of trec_eval through ir_measures, computed on the very run
that is written, so that anyone can check them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from cluster.errors import InputError
from cluster.watch.progress import Progress
from distill.encoders.encoder import Encoder, passage_text
from distill.evaluation import encode_on_workers as pooled
from distill.evaluation import judged
from distill.evaluation.encode_on_workers import PASSAGES_PER_BLOCK
from distill.evaluation.judged import Judged
from distill.evaluation.statistics import paired_difference, verdict
from distill.retrieval.search import Block, Hits, search
from distill.settings import EncoderSettings, EvaluationSettings, StudentSettings

if TYPE_CHECKING:
    from cluster.run import Run

METRICS = {"ndcg@10": "nDCG@10", "recall@100": "R@100", "mrr@10": "RR@10"}
SCORE_FORMAT = ".9g"  # digits that carry a float32 exactly
SHOWN_QUERIES = 20
SHOWN_PASSAGES = 3
SHOWN_CHARACTERS = 300
PASSAGES_AT_ONCE = 512  # encoded between two looks at the progress bar
SPARE = 1  # hits more than asked for, since a query may find itself


@dataclass(frozen=True)
class Evaluated:
    """What one encoder did on a judged collection.

    Attributes:
        metrics: mean of each metric over all judged queries.
        per_query: metric → query id → value.
        run: query id → passage id → score, as written to the TREC run.
    """

    metrics: dict[str, float]
    per_query: dict[str, dict[str, float]]
    run: dict[str, dict[str, float]]


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


def judge(collection: Judged, hits: Hits, depth: int) -> Evaluated:
    """Metrics of what was found, at most `depth` passages per query; `hits` holds `SPARE` more.

    A passage that is the query itself (the same id and the same words, as in ArguAna) is left out of that query's run,
    as the published figures do. An id that coincides by chance is left alone.
    """
    itself = _own_passages(collection)
    run: dict[str, dict[str, float]] = {}
    for number, query in enumerate(collection.query_ids):
        found = [
            (int(row), float(f"{score:{SCORE_FORMAT}}"))
            for row, score in zip(hits.rows[number], hits.scores[number], strict=True)
            if row >= 0 and row != itself.get(number)
        ]
        run[query] = {collection.passage_ids[row]: score for row, score in found[:depth]}
    per_query = measure(collection.qrels, run)
    metrics = {name: float(np.mean([per_query[name][query] for query in collection.query_ids])) for name in METRICS}
    return Evaluated(metrics, per_query, run)


def measure(qrels: judged.Qrels, run: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Each metric of each judged query, by trec_eval's rules; a query that is not in the run has 0."""
    import ir_measures

    measures = {ir_measures.parse_measure(measure): name for name, measure in METRICS.items()}
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(qrels, 0.0) for name in METRICS}
    for metric in ir_measures.iter_calc(list(measures), qrels, run):
        values[measures[metric.measure]][metric.query_id] = float(metric.value)
    return values


def trec_run(run: dict[str, dict[str, float]], tag: str) -> bytes:
    """A run in TREC's format, whose words end at a space: one inside an id or the tag becomes `%20`, a tab `%09`."""
    tag = _word(tag) or "run"
    lines = [
        f"{_word(query)} Q0 {_word(passage)} {rank} {score:{SCORE_FORMAT}} {tag}\n"
        for query, found in run.items()
        for rank, (passage, score) in enumerate(found.items(), start=1)
    ]
    return "".join(lines).encode()


def _word(text: str) -> str:
    return "".join(quote(character) if character.isspace() else character for character in text)


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
    return run.once("evaluation", fingerprint, produce, title="evaluation")


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


def _own_passages(collection: Judged) -> dict[int, int]:
    """Query number → row of the passage that is the query itself."""
    at = {passage: row for row, passage in enumerate(collection.passage_ids)}

    def words(text: str) -> str:
        return " ".join(text.casefold().split())

    return {
        number: at[query]
        for number, query in enumerate(collection.query_ids)
        if query in at and words(collection.queries[number]) == words(collection.texts[at[query]])
    }
