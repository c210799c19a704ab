"""Teachers that read texts: a scorer of pairs, and the pairs of query and passage that it is given.

A scorer knows a model; the teacher around it knows the tables. The same pair is scored once in a shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from cluster.tables.row_reader import RowReader
from distill.encoders.texts import passage_text
from distill.teachers.base import CandidateQuery, Scored

Pair = tuple[str, str]  # query, passage


class PairScorer(Protocol):
    """A model that scores a query and a passage together."""

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        """(n,) float32 raw scores; NaN for a pair whose query leaves no room for a passage."""
        ...

    def shown(self, pair: Pair) -> str:
        """What the model reads of a pair."""
        ...

    def take_tokens(self) -> int:
        """Tokens that the model has read since the last call."""
        ...


class PairTeacher:
    """Teacher that has a scorer score the texts of all candidates.

    Args:
        scorer: the model.
        texts: columns title and text of PASSAGES.
    """

    def __init__(self, scorer: PairScorer, texts: RowReader) -> None:
        self.scorer = scorer
        self.texts = texts

    def score(self, queries: Sequence[CandidateQuery]) -> Scored:
        """Scores candidates as `Teacher.score` says."""
        rows = np.concatenate([query.passage_rows for query in queries]) if queries else np.empty(0, np.int64)
        if not len(rows):
            return Scored([np.empty(0, np.float32) for _ in queries], 0)
        unique, positions = np.unique(rows, return_inverse=True)
        columns = self.texts.take(unique)
        titles, texts = columns.column("title").to_pylist(), columns.column("text").to_pylist()
        passages = [passage_text(title, text) for title, text in zip(titles, texts, strict=True)]
        query_texts = [query.text for query in queries for _ in query.passage_rows]
        pairs = [(text, passages[position]) for text, position in zip(query_texts, positions.tolist(), strict=True)]
        cuts = np.cumsum([len(query.passage_rows) for query in queries])[:-1]
        return Scored(np.split(score_unique(self.scorer, pairs), cuts), self.scorer.take_tokens())


def score_unique(scorer: PairScorer, pairs: Sequence[Pair]) -> np.ndarray:
    """(n,) float32 scores of n pairs, of which equal ones are scored once."""
    number_of = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
    scores = scorer.score(list(number_of))
    return scores[[number_of[pair] for pair in pairs]] if pairs else np.empty(0, np.float32)


def close(scorer: PairScorer) -> None:
    """Ends what a scorer has started, such as an engine in other processes."""
    if end := getattr(scorer, "close", None):
        end()
