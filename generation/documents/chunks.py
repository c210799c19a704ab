"""Chunks of documents as RECORDS: their ids say the document and the number; the document's id stays beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from cluster.schemas import RECORDS
from cluster.tables.plan import Shard
from cluster.tables.plan_shards import plan_shards
from cluster.tables.table import Table
from cluster.workers.worker import Output, Task
from generation.readers.base import Record
from generation.record_rows import RowMaker
from generation.settings import CorpusSettings


def plan_chunks(documents: Table, rows_per_shard: int) -> list[Shard]:
    """Shards of DOCUMENTS with about `rows_per_shard` chunks each."""
    counts: list[int] = []
    for batch in documents.batches(["chunks"]):
        counts += batch.column("chunks").combine_chunks().value_lengths().to_pylist()
    mean = max(1, sum(counts) // max(1, len(counts)))
    return plan_shards(documents, max(1, rows_per_shard // mean), units_per_row=counts)


def chunk_id(document_id: str, number: int, count: int, is_file: bool) -> str:
    """`guide/install.md#3`. A record that was not cut keeps its own id, which judgements may name."""
    return document_id if count == 1 and not is_file else f"{document_id}#{number}"


class ChunkWorker:
    """Makes a row of RECORDS of every chunk.

    Args:
        corpus: limits of text lengths.
        is_file: whether documents are files, and not records.
    """

    def __init__(self, corpus: CorpusSettings, is_file: bool) -> None:
        self.maker = RowMaker(corpus)
        self.is_file = is_file

    def process(self, task: Task) -> Output:
        """Rows of DOCUMENTS to rows of RECORDS."""
        assert task.rows is not None, "chunks are planned over documents"
        rows = [row for document in task.rows.to_pylist() for row in self._rows(document)]
        return Output(pa.Table.from_pylist(rows, schema=RECORDS.schema))

    def _rows(self, document: dict[str, Any]) -> Sequence[dict[str, object]]:
        name, chunks = document["document_id"], document["chunks"]
        records = [
            Record(
                chunk_id(name, number, len(chunks), self.is_file), chunk["title"], chunk["text"],
                document["place"], f"chunk {number}",
            )
            for number, chunk in enumerate(chunks, 1)
        ]  # fmt: skip
        texts = [self.maker.normalise(record.text) for record in records]
        return [self.maker.row(records, texts, position, parent=name) for position in range(len(records))]
