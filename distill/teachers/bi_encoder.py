"""A bi-encoder as a teacher: inner products of vectors that were committed before.

What a retriever with the same encoder has scored is not computed again, and the vectors of such pairs are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cluster.tables.lineage import Lineage
from cluster.tables.row_reader import RowReader
from cluster.tables.vectors import refuse_other_dimensions, rows_of_vectors, vectors_of
from distill.retrieval.search import inner_products
from distill.teachers.base import CandidateQuery, Scored

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.tables.table import Table


class BiEncoderTeacher:
    """Teacher that scores with inner products of committed vectors; it loads no model.

    Args:
        passages: PASSAGE_VECTORS of the encoder.
        passage_ids: ids of PASSAGES; vectors follow their order, and rejected passages have none.
        queries: QUERY_VECTORS of the same encoder.
        candidates: CANDIDATES, if the vectors in `queries` belong to the queries from which CANDIDATES was made; None
            if they belong to the rows of CANDIDATES themselves.
    """

    def __init__(self, passages: Table, passage_ids: pa.ChunkedArray, queries: Table, candidates: Table | None) -> None:
        refuse_other_dimensions(passages, queries)
        self._passages = RowReader(passages, ["id", "vector"])
        self._queries = RowReader(queries, ["id", "vector"], budget_bytes=64 << 20)
        self._to_query_vectors = Lineage(queries)
        self._to_queries = Lineage(candidates) if candidates else None
        self._vector_row: np.ndarray | None = None
        if (rows := rows_of_vectors(passages, passage_ids)) is not None:
            self._vector_row = np.full(len(passage_ids), -1, dtype=np.int64)
            self._vector_row[rows] = np.arange(len(rows))

    def score(self, queries: Sequence[CandidateQuery]) -> Scored:
        """Scores candidates as `Teacher.score` says. The stage that made the vectors counted the tokens: 0 here."""
        started = [query.start() for query in queries]
        if not sum(len(missing) for _, missing in started):
            return Scored([scores for scores, _ in started], 0)
        start, stop = queries[0].row, queries[-1].row + 1
        if self._to_queries is not None:
            start, stop = self._to_queries.inputs(start, stop)
        vector_rows = self._queries.range(*self._to_query_vectors.outputs(start, stop))
        query_vectors = vectors_of(vector_rows.column("vector"))
        position_of = {query_id: position for position, query_id in enumerate(vector_rows.column("id").to_pylist())}

        # Every passage's vector is read once; `positions` says where in `passage_vectors` it is, -1 if it has none.
        wanted = [query.passage_rows[missing] for query, (_, missing) in zip(queries, started, strict=True)]
        unique = np.unique(np.concatenate(wanted))
        rows = unique if self._vector_row is None else self._vector_row[unique]
        passage_vectors = vectors_of(self._passages.take(rows[rows >= 0]).column("vector"))
        positions = np.full(len(unique), -1, dtype=np.int64)
        positions[rows >= 0] = np.arange(len(passage_vectors))

        for query, passage_rows, (scores, missing) in zip(queries, wanted, started, strict=True):
            candidates = positions[np.searchsorted(unique, passage_rows)]
            embedded = candidates >= 0
            if query.query_id in position_of and embedded.any():
                vector = query_vectors[position_of[query.query_id]]
                scores[missing[embedded]] = inner_products(vector[None], passage_vectors[candidates[embedded]])
        return Scored([scores for scores, _ in started], 0)
