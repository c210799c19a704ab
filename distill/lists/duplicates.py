"""Copies of a query's source among its candidates. A copy answers the query as the source does, so it is no negative.

A copy has the words of the source, or nearly: texts are compared in lower case, with single spaces, by the Jaccard
index of their word 3-grams (Broder, On the resemblance and containment of documents, 1997). Titles are not compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.tables.row_reader import RowReader

COPIES = "source_copies"  # in the figures of the lists stage: candidates that were left out
WORDS = 3
ROWS_AT_ONCE = 20_000  # passages whose texts are in memory


class Copies:
    """Finds copies by the texts of a run.

    Args:
        texts: reader of PASSAGES with the column `text`.
        similarity: Jaccard index from which a passage is a copy.
    """

    def __init__(self, texts: RowReader, similarity: float) -> None:
        self._texts = texts
        self._similarity = similarity

    def find(self, sources: Sequence[Sequence[int]], candidates: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Which candidates are copies of a source of their query, and not a source themselves.

        Candidates of all queries are read in the order of the table, a block at a time. So a data file is read once,
        and only texts of sources and of one block are in memory.

        Args:
            sources: rows of each query's sources in PASSAGES; none for a logged query.
            candidates: `(C,) int64` rows of each query's candidates.

        Returns:
            One `(C,) bool` array per query.
        """
        found = [np.zeros(len(rows), dtype=bool) for rows in candidates]
        compared = [number for number, own in enumerate(sources) if len(own)]
        if not compared:
            return found
        wanted = np.unique(np.concatenate([np.asarray(sources[number], dtype=np.int64) for number in compared]))
        known = {row: Words(text) for row, text in zip(wanted.tolist(), self._read(wanted), strict=True)}
        queries = np.concatenate([np.full(len(candidates[number]), number) for number in compared])
        slots = np.concatenate([np.arange(len(candidates[number])) for number in compared])
        rows = np.concatenate([candidates[number] for number in compared])
        order = np.argsort(rows, kind="stable")
        unique, starts = np.unique(rows[order], return_index=True)
        ends = [*starts[1:].tolist(), len(order)]
        for block in range(0, len(unique), ROWS_AT_ONCE):
            texts = self._read(unique[block : block + ROWS_AT_ONCE])
            for number, text in enumerate(texts, start=block):
                words = Words(text)
                row = int(unique[number])
                for pair in order[starts[number] : ends[number]].tolist():
                    of_query = sources[queries[pair]]
                    if row not in of_query:
                        copied = any(words.copies(known[source], self._similarity) for source in of_query)
                        found[queries[pair]][slots[pair]] = copied
        return found

    def _read(self, rows: np.ndarray) -> list[str]:
        return self._texts.take(rows).column("text").to_pylist()


class Words:
    """The words of a text, and its 3-grams, which are made when they are first needed.

    Args:
        text: the text of a passage.
    """

    def __init__(self, text: str) -> None:
        self.words = text.casefold().split()
        self._grams: frozenset[tuple[str, ...]] | None = None

    @property
    def grams(self) -> frozenset[tuple[str, ...]]:
        """All 3-grams of words; none for a text of two words."""
        if self._grams is None:
            self._grams = frozenset(zip(*(self.words[start:] for start in range(WORDS)), strict=False))
        return self._grams

    def copies(self, other: Words, similarity: float) -> bool:
        """Whether two texts are the same, or their 3-grams have this Jaccard index. An empty text copies nothing."""
        if self.words == other.words:
            return len(self.words) > 0
        # two sets of which one is too small cannot be alike, whatever they hold
        if not other.grams or (len(self.words) - WORDS + 1) / len(other.grams) < similarity:
            return False
        one, two = self.grams, other.grams
        if min(len(one), len(two)) / max(len(one), len(two)) < similarity:
            return False
        return len(one & two) / len(one | two) >= similarity
