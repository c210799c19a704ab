"""The records stage: the corpus with normalised texts, and what follows for a record from its neighbours in the file.

Repeated ids and duplicates can be anywhere in the corpus. `generation/passages.py` finds them in these records.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cluster.schemas import DOCUMENTS, RECORDS
from cluster.tables.plan import Shard
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from generation.documents import stage as documents
from generation.documents.chunker import Chunking
from generation.documents.chunks import ChunkWorker, plan_chunks
from generation.documents.reader import DocumentReader
from generation.readers.base import Reader
from generation.readers.open_reader import holds_documents, open_reader
from generation.record_rows import RowMaker
from generation.settings import CorpusSettings

if TYPE_CHECKING:
    from cluster.run import Run

# These fields change no record by themselves: the fingerprint of the source covers the content of the corpus.
_NOT_IN_FINGERPRINT = {
    "path", "format", "query_log", "query_log_mask", "query_log_phone_regions", "judged_queries",
    "max_sources", "exclude_judged_sources", "seed", "rows_per_shard", "language", "chunk_tokens", "chunk_overlap",
    "near_duplicates",
}  # fmt: skip


def build(run: Run, corpus: CorpusSettings, chunking: Chunking | None = None) -> Table:
    """Reads the corpus into RECORDS.

    Args:
        run: the run.
        corpus: where it is, and the limits of its texts.
        chunking: how documents and long records are cut; None: records stay whole.

    Raises:
        InputError: the corpus does not exist, is empty, or holds a malformed record; names file, line and field.
    """
    if chunking:
        return _build_chunks(run, corpus, chunking)
    reader = open_reader(corpus)
    return run.execute(
        Stage(
            title="corpus: reading",
            table=RECORDS,
            path=RECORDS.path,
            worker=RecordWorker,
            arguments={"corpus": corpus, "reader": reader},
            shards=_shards(run, RECORDS.path, reader, corpus),
            fingerprint={
                "corpus": _identity(corpus),
                "source": reader.fingerprint(),
            },
            pool=run.settings.io_pool,
            reads_files=True,
        )
    )


def open_corpus(corpus: CorpusSettings) -> Reader | DocumentReader:
    """The reader of documents, or of records.

    Raises:
        InputError: the corpus does not exist, or its format is unknown.
    """
    if holds_documents(corpus):
        return DocumentReader(Path(corpus.path).expanduser().resolve())
    return open_reader(corpus)


def _build_chunks(run: Run, corpus: CorpusSettings, chunking: Chunking) -> Table:
    reader = open_corpus(corpus)
    cut = documents.build(run, reader, chunking, _shards(run, DOCUMENTS.path, reader, corpus))
    return run.execute(
        Stage(
            title="corpus: chunks",
            table=RECORDS,
            path=RECORDS.path,
            worker=ChunkWorker,
            arguments={"corpus": corpus, "is_file": isinstance(reader, DocumentReader)},
            shards=lambda: plan_chunks(cut, corpus.rows_per_shard),
            fingerprint={
                "corpus": _identity(corpus),
                "documents": cut.fingerprint,
            },
            pool=run.settings.io_pool,
        )
    )


def _shards(run: Run, path: str, reader: Reader | DocumentReader, corpus: CorpusSettings) -> list[Shard]:
    """Those of an earlier run, which has planned the corpus already, or new ones."""
    try:
        return list(run.table(path).plan.shards)
    except KeyError:
        shards = reader.plan(corpus.rows_per_shard, corpus.max_passages)
        how = {str(shard.params["note"]): None for shard in shards if "note" in shard.params}
        for note in (*reader.notes(), *how):
            run.progress.say(note)
        return shards


def _identity(corpus: CorpusSettings) -> dict[str, Any]:
    """The fields that change records; those of later versions only where they are set, so that runs continue."""
    unset = {name for name in ("quoting", "columns") if getattr(corpus, name) in ("auto", None)}
    return corpus.model_dump(mode="json", exclude=_NOT_IN_FINGERPRINT | unset)


class RecordWorker:
    """Reads a range of records, and the record before and after it for comparison.

    Args:
        corpus: limits of text lengths.
        reader: the driver's reader, since relative paths begin at the directory of the driver.
    """

    def __init__(self, corpus: CorpusSettings, reader: Reader) -> None:
        self.corpus = corpus
        self.maker = RowMaker(corpus)
        self.reader = reader

    def process(self, task: Task) -> Output:
        """Rows of RECORDS for a range of records, one row for each."""
        shard = task.shard
        before = task.start > 0 or bool(shard.params.get("before"))
        after = task.stop < shard.rows or bool(shard.params.get("after"))
        records = list(self.reader.read(shard, task.start - before, task.stop + after))
        texts = [self.maker.normalise(record.text) for record in records]
        inner = range(int(before), int(before) + task.stop - task.start)
        rows = [self.maker.row(records, texts, position) for position in inner]
        empty = sum(not texts[position] for position in inner)
        cut = sum(len(records[position].text) > self.corpus.max_characters for position in inner)
        return Output(pa.Table.from_pylist(rows, schema=RECORDS.schema), stats={"empty": empty, "cut": cut})
