"""Rows of RECORDS: normalised texts, and what follows for a record from its neighbours in the file."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

from generation.readers.base import Record
from generation.settings import CorpusSettings


class RowMaker:
    """Makes rows.

    Args:
        corpus: limits of text lengths.
    """

    def __init__(self, corpus: CorpusSettings) -> None:
        self.corpus = corpus

    def normalise(self, text: str) -> str:
        """A text in NFKC, cut at `corpus.max_characters`."""
        text = text[: 2 * self.corpus.max_characters]
        return unicodedata.normalize("NFKC", text).strip()[: self.corpus.max_characters]

    def row(
        self, records: Sequence[Record], texts: Sequence[str], position: int, parent: str | None = None
    ) -> dict[str, object]:
        """The row of one of several records.

        Args:
            records: in the order of their file.
            texts: theirs, normalised.
            position: of the record.
            parent: id of the document that it is a chunk of.
        """
        record, text = records[position], texts[position]
        title = self.normalise(record.title)
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
            "parent_id": parent,
        }
