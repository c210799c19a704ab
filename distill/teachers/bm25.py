"""BM25 as a teacher: the score that retrieval gives the same pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distill.retrieval.bm25 import Bm25Index
from distill.teachers.base import CandidateQuery, Scored


class Bm25Teacher:
    """Teacher that scores with BM25; term statistics are those of the whole corpus."""

    def __init__(self, index: Bm25Index) -> None:
        self.index = index

    def score(self, queries: Sequence[CandidateQuery]) -> Scored:
        """Scores candidates as `Teacher.score` says. No model reads tokens, so the count is 0."""
        return Scored([self._score(query) for query in queries], 0)

    def _score(self, query: CandidateQuery) -> np.ndarray:
        scores, missing = query.start()
        if len(missing):
            scores[missing] = self.index.score(query.text, query.passage_rows[missing])
        return scores
