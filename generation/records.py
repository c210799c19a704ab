"""The records stage: the corpus with normalised texts, and what follows for a record from its neighbours in the file.

Repeated ids and duplicates can be anywhere in the corpus. `generation/passages.py` finds them in these records.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import TYPE_CHECKING

import pyarrow as pa

from cluster.schemas import RECORDS
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from generation.readers.base import Reader, Record
from generation.readers.open_reader import open_reader
from generation.settings import CorpusSettings

if TYPE_CHECKING:
    from cluster.run import Run

# These fields change no record by themselves: the fingerprint of the source covers the content of the corpus.
_NOT_IN_FINGERPRINT = {
    "path", "format", "query_log", "query_log_mask", "query_log_phone_regions", "max_sources", "exclude_judged_sources",
    "seed", "rows_per_shard", "language",
}  # fmt: skip


def build(run: Run, corpus: CorpusSettings) -> Table:
    """Reads the corpus into RECORDS.

    Raises:
        InputError: the corpus does not exist, is empty, or holds a malformed record; names file, line and field.
    """
    reader = open_reader(corpus)
    try:
        shards = list(run.table(RECORDS.path).plan.shards)  # an earlier run has planned the corpus already
    except KeyError:
        shards = reader.plan(corpus.rows_per_shard, corpus.max_passages)
    return run.execute(
        Stage(
            title="corpus: reading",
            table=RECORDS,
            path=RECORDS.path,
            worker=RecordWorker,
            arguments={"corpus": corpus, "reader": reader},
            shards=shards,
            fingerprint={
                "corpus": corpus.model_dump(mode="json", exclude=_NOT_IN_FINGERPRINT),
                "source": reader.fingerprint(),
            },
            pool=run.settings.io_pool,
            reads_files=True,
        )
    )


class RecordWorker:
    """Reads a range of records, and the record before and after it for comparison.

    Args:
        corpus: limits of text lengths.
        reader: the driver's reader, since relative paths begin at the directory of the driver.
    """

    def __init__(self, corpus: CorpusSettings, reader: Reader) -> None:
        self.corpus = corpus
        self.reader = reader

    def process(self, task: Task) -> Output:
        """Rows of RECORDS for a range of records, one row for each."""
        shard = task.shard
        before = task.start > 0 or bool(shard.params.get("before"))
        after = task.stop < shard.rows or bool(shard.params.get("after"))
        records = list(self.reader.read(shard, task.start - before, task.stop + after))
        texts = [self._normalise(record.text) for record in records]
        inner = range(int(before), int(before) + task.stop - task.start)
        rows = [self._row(records, texts, position) for position in inner]
        empty = sum(not texts[position] for position in inner)
        cut = sum(len(records[position].text) > self.corpus.max_characters for position in inner)
        return Output(pa.Table.from_pylist(rows, schema=RECORDS.schema), stats={"empty": empty, "cut": cut})

    def _normalise(self, text: str) -> str:
        text = text[: 2 * self.corpus.max_characters]
        return unicodedata.normalize("NFKC", text).strip()[: self.corpus.max_characters]

    def _row(self, records: list[Record], texts: list[str], position: int) -> dict[str, object]:
        record, text = records[position], texts[position]
        title = self._normalise(record.title)
        beside = [other for other in (position - 1, position + 1) if 0 <= other < len(texts)]
        neighbours = [texts[other] for other in beside if records[other].file == record.file]
        digest = hashlib.blake2b(f"{title}\0{text}".encode(), digest_size=8).digest()
        return {
            "passage_id": record.passage_id,
            "title": title,
            "text": text,
            "digest": int.from_bytes(digest, "big", signed=True),
            "place": record.place,
            "too_short": len(text) < self.corpus.min_characters,
            "contained": bool(text) and any(text in other and text != other for other in neighbours),
        }
