"""The documents stage: files, or records that are too long, become lists of chunks, one row a document.

How many chunks a document has is known when it was read. So they are a table of their own, and the records are planned
over it: each document then accounts for as many records as it has chunks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cluster.errors import InputError
from cluster.schemas import DOCUMENTS
from cluster.tables.commit import drops_of
from cluster.tables.dropped import Dropped, read_dropped
from cluster.tables.plan import Shard
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from generation.documents.chunker import Chunker, Chunking
from generation.documents.document import NO_TEXT, Document, Section, Unreadable
from generation.documents.reader import DocumentReader
from generation.readers.base import Reader

if TYPE_CHECKING:
    from cluster.run import Run

_SHOWN = 3  # documents of each reason that are named


def build(run: Run, reader: Reader | DocumentReader, chunking: Chunking, shards: list[Shard]) -> Table:
    """Reads and cuts all documents: DOCUMENTS.

    Args:
        run: the run.
        reader: of documents, or of records that are cut in the same way.
        chunking: lengths and tokenizer.
        shards: of the reader.

    Raises:
        InputError: no document could be read; a record is malformed; or the tokenizer cannot be loaded.
    """
    settings: dict[str, Any] = asdict(chunking)
    del settings["model"], settings["revision"]  # what matters of them is the tokenizer
    table = run.execute(
        Stage(
            title="corpus: documents",
            table=DOCUMENTS,
            path=DOCUMENTS.path,
            worker=DocumentWorker,
            arguments={"reader": reader, "chunking": chunking},
            shards=shards,
            fingerprint={
                "source": reader.fingerprint(),
                "chunking": {**settings, "tokenizer": Chunker(chunking).counter.digest()},
            },
            pool=run.settings.io_pool,
            reads_files=True,
        )
    )
    drops = drops_of(table.commits())
    if drops:
        run.progress.say(f"left out {drops.total()} of {table.plan.units} documents: {in_words(table, drops)}")
    if not table.num_rows:
        raise InputError(f"corpus.path: no document could be read: {in_words(table, drops)}")
    return table


def in_words(table: Table, drops: Counter[str]) -> str:
    """Reasons with their numbers, and the first documents of each."""
    named: dict[str, list[str]] = {reason: [] for reason in drops}
    for commit in table.commits():
        if any(len(named[reason]) < min(_SHOWN, drops[reason]) for reason in commit.drops):
            for one in read_dropped(table.storage, commit):
                named[one.reason].append(f"{one.unit}: {one.text}")
    return "; ".join(
        f"{reason} {count:,} ({', '.join(sorted(named[reason])[:_SHOWN])}{', …' if count > _SHOWN else ''})"
        for reason, count in drops.most_common()
    )


class DocumentWorker:
    """Reads documents and cuts them.

    Args:
        reader: the driver's, since relative paths begin at its directory.
        chunking: lengths and tokenizer.
    """

    def __init__(self, reader: Reader | DocumentReader, chunking: Chunking) -> None:
        self.reader = reader
        self.chunker = Chunker(chunking)

    def process(self, task: Task) -> Output:
        """Rows of DOCUMENTS for a range of documents; those without text are drops."""
        rows: list[dict[str, Any]] = []
        dropped: list[Dropped] = []
        for document in read_documents(self.reader, task.shard, task.start, task.stop):
            if isinstance(document, Unreadable):
                dropped.append(Dropped(document.document_id, document.reason, document.detail))
                continue
            chunks = self.chunker.chunks(document)
            if not chunks:
                dropped.append(Dropped(document.document_id, NO_TEXT, "no text in it"))
                continue
            rows.append(
                {
                    "document_id": document.document_id,
                    "place": document.place,
                    "chunks": [asdict(chunk) for chunk in chunks],
                }
            )
        table = pa.Table.from_pylist(rows, schema=DOCUMENTS.schema)
        stats = {"chunks": sum(len(row["chunks"]) for row in rows)}
        return Output(table, drops=dict(Counter(one.reason for one in dropped)), dropped=dropped, stats=stats)


def read_documents(
    reader: Reader | DocumentReader, shard: Shard, start: int, stop: int
) -> Iterator[Document | Unreadable]:
    """Documents of a shard; a record is one with its title as the only heading."""
    if isinstance(reader, DocumentReader):
        yield from reader.read(shard, start, stop)
        return
    for record in reader.read(shard, start, stop):
        headings = (record.title,) if record.title.strip() else ()
        yield Document(record.passage_id, (Section(headings, record.text),), record.place)
