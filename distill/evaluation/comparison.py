"""Base against student on the same judged queries: the verdict, and the queries that changed most."""

from __future__ import annotations

from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np

from distill.encoders.texts import passage_text
from distill.evaluation.judged import JudgedCollection
from distill.evaluation.metrics import EvaluationResult
from distill.statistics import paired_difference, verdict

METRIC = "ndcg@10"  # by which queries are compared
SHOWN_QUERIES = 20
SHOWN_PASSAGES = 3
SHOWN_CHARACTERS = 300


def compare(
    base: EvaluationResult, student: EvaluationResult, collection: JudgedCollection, seed: int
) -> dict[str, Any]:
    """Metrics of both models, their paired difference in nDCG@10, and the verdict, as JSON.

    Returns:
        `queries`, `passages`, `unknown_passages` (judgments of passages that the collection lacks), `base`, `student`,
        `difference`, `recommended`, `verdict`.
    """
    values = [
        np.array([result.per_query[METRIC][query] for query in collection.query_ids]) for result in (base, student)
    ]
    difference = paired_difference(values[0], values[1], seed)
    recommended, sentence = verdict(difference, len(collection.query_ids))
    return {
        "queries": len(collection.query_ids),
        "passages": len(collection.passage_ids),
        "unknown_passages": collection.unknown,
        "base": base.metrics,
        "student": student.metrics,
        "difference": asdict(difference),
        "recommended": recommended,
        "verdict": sentence,
    }


def largest_changes(
    collection: JudgedCollection, base: EvaluationResult, student: EvaluationResult
) -> dict[str, list[dict[str, Any]]]:
    """The queries with the largest gains and losses in nDCG@10, with the first passages of both models, as JSON.

    Returns:
        `wins` and `losses`, the largest change first, at most `SHOWN_QUERIES` each.
    """
    before, after = base.per_query[METRIC], student.per_query[METRIC]
    gains = np.array([after[query] - before[query] for query in collection.query_ids])
    order = np.argsort(-gains, kind="stable").tolist()  # numbers of queries, the largest gain first
    shown = {collection.query_ids[number] for number in order[:SHOWN_QUERIES] + order[::-1][:SHOWN_QUERIES]}
    first = [list(result.run[query])[:SHOWN_PASSAGES] for result in (base, student) for query in shown]
    rows = collection.judged_ids.first_rows(list(chain.from_iterable(first)))  # a document is shown by its beginning

    def passage(query: str, passage_id: str, score: float) -> dict[str, Any]:
        row = rows[passage_id]
        text = passage_text(collection.titles[row], collection.texts[row])[:SHOWN_CHARACTERS]
        grade = collection.qrels[query].get(passage_id, 0)
        return {"passage_id": passage_id, "text": text, "score": score, "grade": grade}

    def passages(result: EvaluationResult, query: str) -> list[dict[str, Any]]:
        return [passage(query, *hit) for hit in list(result.run[query].items())[:SHOWN_PASSAGES]]

    def change(number: int) -> dict[str, Any]:
        query = collection.query_ids[number]
        return {
            "query_id": query,
            "text": collection.queries[number],
            "base": before[query],
            "student": after[query],
            "base_passages": passages(base, query),
            "student_passages": passages(student, query),
        }

    return {
        "wins": [change(number) for number in order[:SHOWN_QUERIES] if gains[number] > 0],
        "losses": [change(number) for number in order[::-1][:SHOWN_QUERIES] if gains[number] < 0],
    }
