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
    """

    row: int
    query_id: str
    text: str
    passage_rows: np.ndarray


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
