"""Teachers: slow models that judge how well passages answer a query. Each takes queries with their candidates' rows.

All of them give raw scores; what the numbers mean is put on one scale when lists are made (`distill/lists/build.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Question:
    """A query with its C candidates: `rows` (C,) int64 of PASSAGES; `number` is its row in CANDIDATES."""

    number: int
    query_id: str
    text: str
    rows: np.ndarray


class Teacher(Protocol):
    """Scores candidates."""

    def score(self, questions: Sequence[Question]) -> tuple[list[np.ndarray], int]:
        """One `(C,) float32` array per query, NaN where there is no score; and the tokens that were read."""
        ...
