"""From hits to metrics: those of trec_eval, through ir_measures, on the very run that is written."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

import numpy as np

from distill.evaluation import judged
from distill.evaluation.judged import Judged
from distill.retrieval.search import Hits

METRICS = {"ndcg@10": "nDCG@10", "recall@100": "R@100", "mrr@10": "RR@10"}


SCORE_FORMAT = ".9g"  # digits that carry a float32 exactly


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
