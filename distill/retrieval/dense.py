"""Dense retrieval over committed vectors, block by block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from cluster.errors import InputError
from cluster.tables.lineage import Lineage
from cluster.tables.row_reader import RowReader
from cluster.tables.table import Table
from distill.retrieval.search import Block, Hits, search
from distill.retrieval.vectors import rows_of_vectors, vectors_of


class DenseRun:
    """One dense retriever: blocks of passage vectors, kept in memory up to a budget, and the vectors of the queries.

    Args:
        passages, queries: PASSAGE_VECTORS and QUERY_VECTORS of one encoder.
        passage_ids: of all PASSAGES.
        index_rows: passages that are searched together, at most.
        budget_bytes: of blocks that stay for the next search.
        dimensions: where vectors are cut, then normalised again; whole ones when empty.
    """

    def __init__(
        self,
        passages: Table,
        queries: Table,
        passage_ids: pa.ChunkedArray,
        index_rows: int,
        budget_bytes: int,
        dimensions: int | None = None,
    ) -> None:
        self._passages = RowReader(passages, ["vector"], budget_bytes=0)
        self._queries = RowReader(queries, ["id", "vector"], budget_bytes=64 << 20)
        self._lineage = Lineage(queries)
        self._rows = rows_of_vectors(passages, passage_ids)
        self._budget_bytes = budget_bytes
        self._dimensions = dimensions
        # Whole files, as many as fit into index_rows.
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
        """Top k for consecutive queries, the first of which is row `first`; a rejected query has no hits."""
        hits = Hits.empty(len(query_ids), k)
        rows = self._queries.range(*self._lineage.outputs(first, first + len(query_ids)))
        at = {query_id: position for position, query_id in enumerate(rows.column("id").to_pylist())}
        found = [number for number, query_id in enumerate(query_ids) if query_id in at]
        if found:
            queries = self._cut(rows)[[at[query_ids[number]] for number in found]]
            result = search(queries, self._each_block(), k)
            hits.rows[found], hits.scores[found] = result.rows, result.scores
        return hits

    def _each_block(self) -> Iterator[Block]:
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
            if sum(kept.bytes for kept in self._blocks.values()) + block.bytes <= self._budget_bytes:
                self._blocks[number] = block
            yield block

    def _cut(self, rows: pa.Table) -> np.ndarray:
        """(n, dimensions) float32 vectors of n rows."""
        vectors = vectors_of(rows.column("vector"))
        if self._dimensions is None or not len(vectors):
            return vectors
        if self._dimensions > vectors.shape[1]:
            raise InputError(f"vectors of {vectors.shape[1]} dimensions cannot be cut at {self._dimensions}.")
        cut = vectors[:, : self._dimensions]
        return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
