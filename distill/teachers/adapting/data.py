"""What a teacher learns from and is judged by: lists from the candidates and scores of the run, made by the driver.

The source of a written query is the one passage that is known to answer it. So it is the positive, with the best target
of its list. The other passages of the list are graded negatives: their targets are the scores of the other teachers.

Letters: Q queries, C candidates of a query, L passages of a list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.tables.row_reader import RowReader
from cluster.tables.table import Table
from distill.lists.build import Scale, scale_scores, split_of
from distill.lists.duplicates import Copies
from distill.lists.ensemble_reader import EnsembleReader, sampled_ranges, sources_of
from distill.lists.ensemble_stage import quoted
from distill.lists.relevance import Relevance
from distill.settings.adapting import AdaptingSettings
from distill.settings.lists import ListSettings

AT_ONCE = 50  # consecutive queries that are read together
TEXT_BYTES = 256 << 20  # of passages that the driver keeps in memory

LISTS = pa.schema([
    ("text", pa.string()),
    ("passage_rows", pa.list_(pa.int64())),     # the sources first
    ("targets", pa.list_(pa.float32())),        # of the same passages: 0…1, and above that the sources' margin
])  # fmt: skip
HELD_OUT = pa.schema([
    ("text", pa.string()),
    ("passage_rows", pa.list_(pa.int64())),     # all candidates
    ("source", pa.int64()),                     # place of the source among them
    ("scores", pa.list_(pa.float64())),         # of the other teachers together
])  # fmt: skip

SCORED = pa.schema([
    ("adapted", pa.list_(pa.float32())),        # scores of a held-out query's candidates
    ("untrained", pa.list_(pa.float32())),      # by the model that training began with, if that was a reranker
])  # fmt: skip


@dataclass(frozen=True)
class Data:
    """What is trained on and what is judged by.

    Attributes:
        lists: rows of `LISTS`, of sources that are not held out.
        held_out: rows of `HELD_OUT`: queries with one source, held out, which no candidate quotes.
        drops: reasons why other queries of the sample are in neither, with their numbers.
    """

    lists: pa.Table
    held_out: pa.Table
    drops: dict[str, int]


@dataclass(frozen=True)
class _Query:
    text: str
    sources: list[int]
    rows: np.ndarray
    scores: np.ndarray
    is_held_out: bool
    number: int


def collect(
    others: EnsembleReader,
    candidates: Table,
    passages: Table,
    lists: ListSettings,
    adapt: AdaptingSettings,
    relevance: Relevance,
) -> Data:
    """Lists and held-out queries, from at most `adapt.queries` queries that are spread evenly over the run.

    A query that a candidate quotes, such as most extractive ones, is neither learnt from nor judged by: word overlap
    alone answers it.

    Args:
        others: the scores of the other teachers.
        candidates: CANDIDATES.
        passages: PASSAGES.
        lists: scaling, seed and share of the dev split, which is held out; what counts as a copy of a source.
        adapt: length of lists, held-out share, number of queries.
        relevance: what people judged; all that is relevant to a judged query is a source of it.

    Raises:
        InputError: no query has scores of all the other teachers, or all scores are equal.
    """
    scale = others.scale(candidates, lists).of_all
    drops: Counter[str] = Counter()
    found = list(_queries(others, candidates, lists, adapt, relevance, drops))
    is_quoted = quoted([query.text for query in found], [query.rows for query in found], passages)
    drops["quoted"] = sum(is_quoted)
    queries = [query for query, is_out in zip(found, is_quoted, strict=True) if not is_out]
    held_out = [query for query in queries if query.is_held_out]
    drops["two_sources"] = sum(len(query.sources) > 1 for query in held_out)
    held_out = [query for query in held_out if len(query.sources) == 1]
    held_out = [held_out[place] for place in _spread(len(held_out), adapt.held_out_queries)]
    learnt = [query for query in queries if not query.is_held_out]
    rows = []
    for query, copies in zip(learnt, _copies(learnt, passages, lists.duplicate_similarity), strict=True):
        row = make_list(query.scores, query.sources, copies, scale, adapt, query.number)
        if row is None:
            drops["few_candidates"] += 1
            continue
        places, targets = row
        rows.append({"text": query.text, "passage_rows": query.rows[places], "targets": targets})
    judged = [
        {
            "text": query.text, "passage_rows": query.rows, "source": query.sources[0], "scores": query.scores,
        }
        for query in held_out
    ]  # fmt: skip
    return Data(
        pa.Table.from_pylist(rows, LISTS),
        pa.Table.from_pylist(judged, HELD_OUT),
        {reason: number for reason, number in drops.items() if number},
    )


def make_list(
    scores: np.ndarray,
    sources: Sequence[int],
    copies: np.ndarray,
    scale: Scale,
    adapt: AdaptingSettings,
    number: int,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Places and targets of a list, `(L,) int64` and `(L,) float32`; None if there are too few candidates.

    Half of the negatives, rounded up, are those that the other teachers score best; the others are drawn from the rest.

    Args:
        scores: `(C,)` scores of the other teachers together.
        sources: places of the query's sources among the candidates.
        copies: `(C,) bool`, candidates that repeat a source; they are no negatives.
        scale: the scores that become 0 and 1.
        adapt: length of the list, margin of the source, seed.
        number: number of the query, for the draw.
    """
    is_negative = ~copies
    is_negative[list(sources)] = False
    order = np.argsort(-scores, kind="stable")
    order = order[is_negative[order]]
    wanted = adapt.list_length - len(sources)
    if wanted < 1 or len(order) < wanted:
        return None
    best = -(-wanted // 2)
    drawn = np.random.default_rng([adapt.seed, number]).choice(order[best:], wanted - best, replace=False)
    places = np.concatenate([np.asarray(sources, dtype=np.int64), order[:best], drawn])
    targets = scale_scores(scores, scale)[places]
    targets[: len(sources)] = targets.max() + adapt.source_margin
    return places, targets


def _queries(
    others: EnsembleReader,
    candidates: Table,
    lists: ListSettings,
    adapt: AdaptingSettings,
    relevance: Relevance,
    drops: Counter[str],
) -> Iterator[_Query]:
    """Queries with all sources among their candidates, and whether all or none of these are held out."""
    columns = ["query_id", "text", "source_id", "second_source_id", "passage_ids", "passage_rows"]
    reader = RowReader(candidates, columns, budget_bytes=0)
    held_out = max(adapt.held_out_fraction, lists.dev_fraction)  # sources of the smaller share are among the larger one
    for start, stop in sampled_ranges(candidates.num_rows, max(adapt.queries, AT_ONCE), AT_ONCE):
        scores = others.read(start, stop)
        for number, row in enumerate(reader.range(start, stop).to_pylist(), start=start):
            sources = relevance.places(row) or sources_of(row)
            ids = [one for one in (row["source_id"], row["second_source_id"]) if one is not None]
            splits = {split_of(f"passage {one}", held_out, lists.seed) for one in ids}
            if not ids:
                drops["logged"] += 1
            elif row["query_id"] not in scores:
                drops["no_score"] += 1
            elif min(sources) < 0:
                drops["source_not_found"] += 1
            elif len(splits) > 1:
                drops["two_splits"] += 1
            else:
                rows = np.array(row["passage_rows"], dtype=np.int64)
                yield _Query(row["text"], sources, rows, scores[row["query_id"]], splits == {"dev"}, number)


def _copies(queries: Sequence[_Query], passages: Table, similarity: float | None) -> list[np.ndarray]:
    """For each query, which of its candidates repeat a source."""
    if similarity is None:
        return [np.zeros(len(query.rows), dtype=bool) for query in queries]
    copies = Copies(RowReader(passages, ["text"], TEXT_BYTES), similarity)
    return copies.find([query.rows[query.sources].tolist() for query in queries], [query.rows for query in queries])


def _spread(number: int, most: int) -> Any:
    """Places of all of so many things, or of `most` that lie evenly among them."""
    return np.arange(number) if number <= most else np.linspace(0, number - 1, most).astype(int)
