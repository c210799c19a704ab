"""A bi-encoder as a teacher: inner products of vectors that are made already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cluster.tables.lineage import Lineage
from cluster.tables.row_reader import RowReader
from distill.retrieval.vectors import rows_of_vectors, vectors_of
from distill.teachers.base import Question

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.tables.table import Table


class BiEncoderTeacher:
    """Inner products of vectors that an encoder has made already.

    Args:
        passages: PASSAGE_VECTORS of the encoder.
        passage_ids: ids of PASSAGES; vectors follow their order, without the passages that were rejected.
        queries: QUERY_VECTORS of the same encoder.
        candidates: CANDIDATES, if `queries` holds the queries that the candidates were made of; None if it was made
            of the candidates themselves, row by row.
    """

    def __init__(self, passages: Table, passage_ids: pa.ChunkedArray, queries: Table, candidates: Table | None) -> None:
        self._passages = RowReader(passages, ["id", "vector"])
        self._queries = RowReader(queries, ["id", "vector"], budget_bytes=64 << 20)
        self._to_query_vectors = Lineage(queries)
        self._to_queries = Lineage(candidates) if candidates else None
        self._vector_row: np.ndarray | None = None
        if (rows := rows_of_vectors(passages, passage_ids)) is not None:
            self._vector_row = np.full(len(passage_ids), -1, dtype=np.int64)
            self._vector_row[rows] = np.arange(len(rows))

    def score(self, questions: Sequence[Question]) -> tuple[list[np.ndarray], int]:
        """See `Teacher`; the tokens were counted when the vectors were made."""
        if not questions:
            return [], 0
        start, stop = questions[0].number, questions[-1].number + 1
        if self._to_queries is not None:
            start, stop = self._to_queries.inputs(start, stop)
        made = self._queries.range(*self._to_query_vectors.outputs(start, stop))
        queries = vectors_of(made.column("vector"))
        at = {query_id: position for position, query_id in enumerate(made.column("id").to_pylist())}

        wanted = np.unique(np.concatenate([question.rows for question in questions]))
        held = wanted if self._vector_row is None else self._vector_row[wanted]
        vectors = vectors_of(self._passages.take(held[held >= 0]).column("vector"))
        place = np.full(len(wanted), -1, dtype=np.int64)
        place[held >= 0] = np.arange(len(vectors))

        scores = []
        for question in questions:
            where = place[np.searchsorted(wanted, question.rows)]
            result = np.full(len(question.rows), np.nan, dtype=np.float32)
            if question.query_id in at:
                result[where >= 0] = vectors[where[where >= 0]] @ queries[at[question.query_id]]
            scores.append(result)
        return scores, 0
