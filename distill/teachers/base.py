"""Teachers score how well passages answer a query. A teacher takes queries, each with the rows of its candidates.

Teachers return raw scores; `distill/lists/build.py` brings them onto one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


@dataclass(frozen=True)
class CandidateQuery:
    """A query with its C candidates.

    Attributes:
        row: row of the query in CANDIDATES.
        query_id: its id.
        text: its text, without a prompt.
        passage_rows: (C,) int64 rows of the candidates in PASSAGES.
        known: (C,) float32 scores that a retriever gave, which scores as the teacher does; NaN where it gave none.
            None: there is no such retriever.
    """

    row: int
    query_id: str
    text: str
    passage_rows: np.ndarray
    known: np.ndarray | None = None

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        """A new (C,) float32 array with the known scores, NaN elsewhere; (M,) positions of the M others."""
        if self.known is None:
            scores = np.full(len(self.passage_rows), np.nan, dtype=np.float32)
        else:
            scores = self.known.astype(np.float32)
        return scores, np.flatnonzero(np.isnan(scores))


class Scored(NamedTuple):
    """What a teacher says of Q queries.

    Attributes:
        scores: a `(C,) float32` array per query, NaN where a candidate has no score.
        tokens: that the model has read.
    """

    scores: list[np.ndarray]
    tokens: int


class Teacher(Protocol):
    """A model that scores candidates."""

    def score(self, queries: Sequence[CandidateQuery]) -> Scored:
        """Scores the candidates of consecutive rows of CANDIDATES."""
        ...
