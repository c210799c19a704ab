"""From answers to rows: each request is a row of QUERIES, or a drop that is counted under its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cluster.schemas import QUERIES
from cluster.tables.dropped import Dropped
from cluster.workers.worker import Output
from generation.cleaning.words import words
from generation.engines.base import Answer, Request
from generation.query_types import QueryType
from generation.type_figures import PASSAGE_CUT, kept, lost


def collect(requests: list[Request], answers: list[Answer], types: Mapping[str, QueryType]) -> Output:
    """Turns answers into rows; counts those without text, of a wrong length, and texts that a source has already.

    The stats are the figures of every type (`generation.type_figures`).

    Args:
        requests: what was asked.
        answers: one per request, in the same order.
        types: their limits of length.
    """
    rows: list[dict[str, Any]] = []
    dropped: list[Dropped] = []
    stats: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    source, source_words = "", frozenset[str]()  # of the passage, or of both

    def drop(request: Request, reason: str, text: str) -> None:
        dropped.append(Dropped(request.unit, reason, text))
        stats.update(lost([request.query_type], reason))

    for request, answer in zip(requests, answers, strict=True):
        if answer.unit != request.unit:
            raise ValueError(f"the engine answered {answer.unit} where {request.unit} was asked")
        if answer.is_cut:
            stats[PASSAGE_CUT] += 1
        if answer.text is None:
            drop(request, answer.reason or "no_answer", answer.dropped)
            continue
        kind, key = types[request.query_type], (request.source_id, answer.text.casefold())
        if len(answer.text) < kind.min_characters:
            drop(request, "too_short", answer.text)
        elif kind.max_characters and len(answer.text) > kind.max_characters:
            drop(request, "too_long", answer.text)
        elif key in seen:
            drop(request, "duplicate", answer.text)
        else:
            seen.add(key)
            second = request.second
            read = "\n".join([request.title, request.text, *((second.title, second.text) if second else ())])
            if read != source:
                source, source_words = read, frozenset(words(read))
            kept(stats, request.query_type, answer.text, source_words)
            rows.append(
                {
                    "query_id": request.unit,
                    "source_id": request.source_id,
                    "query_type": request.query_type,
                    "text": answer.text,
                    "sample": request.sample,
                    "second_source_id": second.passage_id if second else None,
                }
            )
    table = pa.Table.from_pylist(rows, schema=QUERIES.schema)
    drops = dict(Counter(each.reason for each in dropped))
    for answer in answers:
        stats.update(prompt_tokens=answer.prompt_tokens, cached_tokens=answer.cached_tokens)
    tokens = sum(answer.tokens for answer in answers)
    return Output(table, drops, tokens=tokens, stats=dict(stats), dropped=dropped)
