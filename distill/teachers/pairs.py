"""Teachers that read texts: a scorer of pairs, and the pairs of query and passage that it is given.

A scorer knows a model; the teacher around it knows the tables. The same pair is scored once in a shard, and not at all
if its score is known from before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from cluster.tables.row_reader import RowReader
from distill.encoders.texts import passage_text
from distill.teachers.base import CandidateQuery, Scored
from distill.teachers.kept_scores import KeptScores, keys_of

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
        known: the scores of pairs that were scored before; None: there are none, and none are remembered.
    """

    def __init__(self, scorer: PairScorer, texts: RowReader, known: KeptScores | None = None) -> None:
        self.scorer = scorer
        self.texts = texts
        self.known = known
        self.new: list[tuple[np.ndarray, np.ndarray]] = []  # keys and scores of pairs that were not known
        self.found = 0  # pairs that were

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
        return Scored(np.split(self._score(pairs), cuts), self.scorer.take_tokens())

    def take_new(self) -> tuple[np.ndarray, np.ndarray, int]:
        """`(n,) uint64` keys and `(n,) float32` scores of the pairs that were scored since the last call; how many
        others were known."""
        new, self.new, found, self.found = self.new, [], self.found, 0
        keys, scores = zip(*new, strict=True) if new else ([np.empty(0, np.uint64)], [np.empty(0, np.float32)])
        return np.concatenate(keys), np.concatenate(scores), found

    def _score(self, pairs: Sequence[Pair]) -> np.ndarray:
        if self.known is None:
            return score_unique(self.scorer.score, pairs)
        return score_unique(self._score_unknown, pairs)

    def _score_unknown(self, pairs: Sequence[Pair]) -> np.ndarray:
        """(n,) float32 scores of n different pairs, of which the scorer gets those that are not known."""
        assert self.known is not None
        keys = keys_of(pairs)
        scores = self.known.find(keys)
        missing = np.flatnonzero(np.isnan(scores))
        if len(missing):
            scores[missing] = self.scorer.score([pairs[number] for number in missing.tolist()])
            self.new.append((keys[missing], scores[missing]))
        self.found += len(pairs) - len(missing)
        return scores


def score_unique(score: Callable[[Sequence[Pair]], np.ndarray], pairs: Sequence[Pair]) -> np.ndarray:
    """(n,) float32 scores of n pairs, of which equal ones are scored once."""
    number_of = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
    scores = score(list(number_of))
    return scores[[number_of[pair] for pair in pairs]] if pairs else np.empty(0, np.float32)


def close(scorer: PairScorer) -> None:
    """Ends what a scorer has started, such as an engine in other processes."""
    if end := getattr(scorer, "close", None):
        end()
