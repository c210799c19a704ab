"""BM25 as a teacher."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distill.retrieval.bm25 import Bm25Index
from distill.teachers.base import Question


class Bm25Teacher:
    """BM25 with the statistics of the whole corpus."""

    def __init__(self, index: Bm25Index) -> None:
        self.index = index

    def score(self, questions: Sequence[Question]) -> tuple[list[np.ndarray], int]:
        """See `Teacher`; BM25 reads no tokens of a model."""
        return [self.index.score(question.text, question.rows) for question in questions], 0
