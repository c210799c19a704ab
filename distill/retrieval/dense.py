"""Dense retrieval over the committed vectors of one encoder: exact, block by block, or with an approximate index."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from cluster.errors import InputError
from cluster.tables.lineage import Lineage
from cluster.tables.row_reader import RowReader
from cluster.tables.table import Table
from cluster.tables.vectors import refuse_other_dimensions, rows_of_vectors, vectors_of
from distill.retrieval.approximate import ApproximateIndex
from distill.retrieval.search import Block, Hits, search
from distill.settings.retrieval import RetrieverSettings

UNIT = 1e-3  # a vector whose length differs less from 1 is one of length 1


class DenseRun:
    """One dense retriever: blocks of passage vectors, cached in memory up to a budget, and the vectors of the queries.

    Args:
        passages, queries: PASSAGE_VECTORS and QUERY_VECTORS of one encoder.
        passage_ids: ids of all PASSAGES.
        index_rows: the most passages of a block, unless one file alone has more.
        budget_bytes: memory for blocks that are cached for the next search.
        dimensions: number of dimensions at which vectors are cut (`cut`); None leaves them whole.
        retriever: settings of the retriever; those of an approximate index make one, over whole vectors. None: exact.
    """

    def __init__(
        self,
        passages: Table,
        queries: Table,
        passage_ids: pa.ChunkedArray,
        index_rows: int,
        budget_bytes: int,
        dimensions: int | None = None,
        retriever: RetrieverSettings | None = None,
    ) -> None:
        approximate = retriever is not None and retriever.index != "exact"
        self._index = ApproximateIndex.shared(passages, retriever) if retriever and approximate else None
        refuse_other_dimensions(passages, queries)
        self._passages = RowReader(passages, ["vector"], budget_bytes=0)
        self._queries = RowReader(queries, ["id", "vector"], budget_bytes=64 << 20)
        self._lineage = Lineage(queries)
        self._rows = rows_of_vectors(passages, passage_ids)
        self._budget_bytes = 0 if approximate else budget_bytes  # blocks then serve one sample alone
        self._dimensions = dimensions
        # A block consists of whole files, as many as fit into index_rows.
        self._groups: list[list[int]] = []
        rows_in_last = 0
        for number, (_, rows) in enumerate(self._passages.files):
            if not self._groups or rows_in_last + rows > index_rows:
                self._groups.append([])
                rows_in_last = 0
            self._groups[-1].append(number)
            rows_in_last += rows
        self._blocks: dict[int, Block] = {}

    def search(self, query_ids: list[str], first: int, k: int) -> Hits:
        """Finds the k best passages for each of Q consecutive queries, as (Q, k) hits.

        Args:
            query_ids: ids of the queries. One without a vector, because it was rejected, has no hits.
            first: row of the first query among all queries.
            k: hits per query.

        Raises:
            InputError: the vectors have fewer dimensions than they are to be cut at.
        """
        hits = Hits.empty(len(query_ids), k)
        rows = self._queries.range(*self._lineage.outputs(first, first + len(query_ids)))
        position_of = {query_id: position for position, query_id in enumerate(rows.column("id").to_pylist())}
        embedded = [number for number, query_id in enumerate(query_ids) if query_id in position_of]
        if embedded:
            queries = self._cut(rows)[[position_of[query_ids[number]] for number in embedded]]
            result = self._approximate(queries, k) if self._index else search(queries, self._iterate_blocks(), k)
            hits.rows[embedded], hits.scores[embedded] = result.rows, result.scores
        return hits

    def _approximate(self, queries: np.ndarray, k: int) -> Hits:
        assert self._index is not None
        hits = self._index.search(queries, k)
        rows = hits.rows if self._rows is None else np.where(hits.rows >= 0, self._rows[hits.rows], -1)
        return Hits(rows, hits.scores)

    def recall(self, most: int, k: int) -> tuple[int, int] | None:
        """How many of the k best passages of at most `most` queries the approximate index finds; how many there are.

        The queries lie at equal distances over all queries. They are searched exactly, which reads all vectors once.
        None: the search is exact.
        """
        if self._index is None:
            return None
        rows = np.unique(np.linspace(0, len(self._queries) - 1, min(most, len(self._queries)), dtype=np.int64))
        queries = vectors_of(self._queries.take(rows).column("vector"))
        exact, found = search(queries, self._iterate_blocks(), k).rows, self._approximate(queries, k).rows
        both = sum(len(np.intersect1d(one[one >= 0], other)) for one, other in zip(exact, found, strict=True))
        return both, int((exact >= 0).sum())

    def _iterate_blocks(self) -> Iterator[Block]:
        for number, files in enumerate(self._groups):
            if number in self._blocks:
                yield self._blocks[number]
                continue
            tables = [self._passages.file(file) for file in files]
            first, stop = self._passages.starts[[files[0], files[-1] + 1]].tolist()
            block = Block.of(
                np.arange(first, stop, dtype=np.int64) if self._rows is None else self._rows[first:stop],
                np.concatenate([self._cut(table) for table in tables]),
            )
            if sum(cached.bytes for cached in self._blocks.values()) + block.bytes <= self._budget_bytes:
                self._blocks[number] = block
            yield block

    def _cut(self, rows: pa.Table) -> np.ndarray:
        """(n, dimensions) float32 vectors of n rows."""
        vectors = vectors_of(rows.column("vector"))
        if self._dimensions is None or not len(vectors):
            return vectors
        if self._dimensions > vectors.shape[1]:
            raise InputError(f"vectors of {vectors.shape[1]} dimensions cannot be cut at {self._dimensions}.")
        return cut(vectors, self._dimensions)


def cut(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """(n, dimensions) first numbers of (n, d) vectors; those of vectors of length 1 get length 1 again.

    So cosines stay cosines, and inner products those of the cut vectors.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    first = vectors[:, :dimensions]
    again = np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)
    return first / np.where(np.abs(lengths - 1) < UNIT, again, 1.0).astype(np.float32)
