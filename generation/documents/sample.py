"""Chunks of some documents at equal distances, for a plan."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.tables.plan import Shard
from generation.documents.chunker import Chunk, Chunker, Chunking
from generation.documents.document import Unreadable
from generation.documents.reader import DocumentReader
from generation.documents.stage import read_documents
from generation.readers.base import Reader

DOCUMENTS = 24  # that are read


def sample_documents(
    reader: Reader | DocumentReader, shards: Sequence[Shard], chunking: Chunking
) -> tuple[list[Chunk], int]:
    """Chunks of a sample, and how many documents it has; those without text are among them.

    Args:
        reader: of the documents.
        shards: all of its plan.
        chunking: how they are cut.

    Raises:
        InputError: a record is malformed, or the tokenizer cannot be loaded.
    """
    total = sum(shard.rows for shard in shards)
    wanted = {number * total // DOCUMENTS for number in range(DOCUMENTS)} if total > DOCUMENTS else set(range(total))
    chunker = Chunker(chunking)
    chunks: list[Chunk] = []
    first = 0
    for shard in shards:
        for row in sorted(number - first for number in wanted if first <= number < first + shard.rows):
            for document in read_documents(reader, shard, row, row + 1):
                chunks += [] if isinstance(document, Unreadable) else chunker.chunks(document)
        first += shard.rows
    return chunks, len(wanted)
