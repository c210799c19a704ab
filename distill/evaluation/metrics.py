"""Metrics of a run by the rules of trec_eval, computed through ir_measures on the same run that is written to disk."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

import numpy as np

from distill.evaluation.judged import JudgedCollection
from distill.evaluation.qrels import Qrels
from distill.retrieval.search import Hits

METRICS = {"ndcg@10": "nDCG@10", "recall@100": "R@100", "mrr@10": "RR@10"}  # our name → name in ir_measures
SCORE_FORMAT = ".9g"  # digits that carry a float32 exactly
SPARE_HITS = 1  # hits per query beyond `depth`: the query itself may be one of the passages

Run = dict[str, dict[str, float]]


@dataclass(frozen=True)
class EvaluationResult:
    """Run and metrics of one encoder on a judged collection.

    Attributes:
        metrics: mean of each metric over all judged queries.
        per_query: metric → query id → value.
        run: query id → passage id → score, as written to the TREC run.
    """

    metrics: dict[str, float]
    per_query: dict[str, dict[str, float]]
    run: Run


def evaluate_hits(collection: JudgedCollection, hits: Hits, depth: int) -> EvaluationResult:
    """Metrics of search results.

    A passage that is the query itself (same id and same words, as in ArguAna) is left out of that query's run, as in
    published figures. A passage that has the query's id and other words stays.

    Args:
        collection: Q queries, P passages and their judgments.
        hits: `(Q, K)` hits for the queries of the collection, in their order; K is
            `collection.hits_needed(depth + SPARE_HITS)`.
        depth: most passages per query in the run; where documents are judged, most documents, each by its best chunk.
    """
    own, ids = own_passages(collection), collection.judged_ids
    run: Run = {}
    for number, query in enumerate(collection.query_ids):
        scored_rows = [
            (int(row), float(f"{score:{SCORE_FORMAT}}"))
            for row, score in zip(hits.rows[number], hits.scores[number], strict=True)
            if row >= 0 and row != own.get(number)
        ]
        best: dict[str, float] = {}
        for row, score in scored_rows:
            if len(best) == depth:
                break
            best.setdefault(ids[row], score)  # the first hit of a document is its best chunk
        run[query] = best
    per_query = metrics_per_query(collection.qrels, run)
    metrics = {name: float(np.mean([per_query[name][query] for query in collection.query_ids])) for name in METRICS}
    return EvaluationResult(metrics, per_query, run)


def metrics_per_query(qrels: Qrels, run: Run) -> dict[str, dict[str, float]]:
    """Each metric of each judged query, by trec_eval's rules; a query that is not in the run has 0.

    Returns:
        Metric → query id → value.
    """
    import ir_measures

    names = {ir_measures.parse_measure(measure): name for name, measure in METRICS.items()}
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(qrels, 0.0) for name in METRICS}
    for metric in ir_measures.iter_calc(list(names), qrels, run):
        values[names[metric.measure]][metric.query_id] = float(metric.value)
    return values


def trec_run(run: Run, tag: str) -> bytes:
    """A run in TREC's format. Spaces separate its words, so a space in an id or the tag becomes `%20`, a tab `%09`."""
    tag = _one_word(tag) or "run"
    lines = [
        f"{_one_word(query)} Q0 {_one_word(passage)} {rank} {score:{SCORE_FORMAT}} {tag}\n"
        for query, scores in run.items()
        for rank, (passage, score) in enumerate(scores.items(), start=1)
    ]
    return "".join(lines).encode()


def _one_word(text: str) -> str:
    return "".join(quote(character) if character.isspace() else character for character in text)


def own_passages(collection: JudgedCollection) -> dict[int, int]:
    """Query number → row of the passage that is the query itself, as in ArguAna: same id and same words."""
    rows = collection.passage_ids.first_rows(collection.query_ids)
    return {
        number: rows[query]
        for number, query in enumerate(collection.query_ids)
        if query in rows and are_same_words(collection.queries[number], collection.texts[rows[query]])
    }


def are_same_words(one: str, other: str) -> bool:
    """Whether two texts are the same but for case and blanks."""
    return one.casefold().split() == other.casefold().split()
