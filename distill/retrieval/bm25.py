"""BM25 over the passages: a retriever without training, and a teacher that scores given pairs.

One index serves both, so a pair has the same score in retrieval and from the teacher. The variant is Lucene's, computed
by bm25s. The workers of a machine share one index: the first worker builds it, and all workers map it into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cluster.machines.shared_folder import shared_folder
from cluster.tables.table import Table
from distill.encoders.texts import passage_text
from distill.retrieval.max_score import ScoreColumns
from distill.retrieval.search import Hits
from distill.retrieval.tokenizers import TextSettings
from distill.settings.retrieval import Bm25Settings

if TYPE_CHECKING:
    import bm25s

ENGLISH = TextSettings()
K1 = 1.5
B = 0.75
COUNT_FILE = "passages"  # file of a saved index that has no token at all: the number of its passages


class Bm25Index:
    """BM25 index over all passages. A passage's row is its position in `texts`.

    The score of passage d for query q is the sum over the tokens t of q of
    `ln(1 + (N - df_t + 0.5) / (df_t + 0.5)) * tf / (tf + k1 * (1 - b + b * |d| / avgdl))`:
    Kamphuis et al., "Which BM25 Do You Mean?", ECIR 2020, "Lucene (accurate)".

    Args:
        texts: batches of passage texts ("title text"); the index keeps only their token ids.
        stop_words: whether stop words of the language are left out.
        reads: language and tokenizer of passages and queries.
    """

    def __init__(self, texts: Iterable[Sequence[str]], stop_words: bool = True, reads: TextSettings = ENGLISH) -> None:
        import bm25s
        from bm25s.tokenization import Tokenized

        self._tokenizer = reads.tokenizer(stop_words)
        ids: list[list[int]] = []
        for batch in texts:
            ids += self._tokenizer.tokenize(
                list(batch), update_vocab=True, return_as="ids", allow_empty=False, show_progress=False
            )
        self.passages = len(ids)
        self._index: bm25s.BM25 | None = None
        if any(ids):
            self._index = bm25s.BM25(k1=K1, b=B, method="lucene")
            self._index.index(Tokenized(ids=ids, vocab=self._tokenizer.get_vocab_dict()), show_progress=False)
        self._columns = _columns(self._index)

    @classmethod
    def shared(
        cls, name: str, texts: Callable[[], Iterable[Sequence[str]]], reads: TextSettings = ENGLISH
    ) -> Bm25Index:
        """Returns the index that all processes of this machine share; the first process that asks for it builds it.

        Where temporary files cannot be written, every process builds its own index.

        Args:
            name: identifies the texts; equal names stand for equal texts.
            texts: returns the batches of texts; called only when this process builds the index.
            reads: language and tokenizer.

        Raises:
            InputError: the folder for this user's temporary files is not private to the user.
        """
        indexes: list[Bm25Index] = []

        def build(folder: Path) -> None:
            indexes.append(cls(texts(), reads=reads))
            indexes[0].save(folder)

        try:
            return cls.load(shared_folder(f"bm25-{name}-{reads.name()}", build), reads=reads)
        except OSError:
            return indexes[0] if indexes else cls(texts(), reads=reads)

    def save(self, folder: Path) -> None:
        """Writes the index into an empty folder, as numeric arrays and JSON."""
        if self._index is None:
            (folder / COUNT_FILE).write_text(str(self.passages))
            return
        self._index.save(folder, show_progress=False)
        self._tokenizer.save_vocab(folder)

    @classmethod
    def load(cls, folder: Path, stop_words: bool = True, reads: TextSettings = ENGLISH) -> Bm25Index:
        """Loads an index that was saved with the same `reads`.

        Its arrays are mapped into memory, so pages are read when a search needs them.
        """
        import bm25s

        index = cls.__new__(cls)
        index._tokenizer, index._index = reads.tokenizer(stop_words), None
        if (folder / COUNT_FILE).exists():
            index.passages = int((folder / COUNT_FILE).read_text())
        else:
            index._tokenizer.load_vocab(folder)
            index._index = bm25s.BM25.load(folder, mmap=True, load_vocab=False)
            index.passages = index._index.scores["num_docs"]
        index._columns = _columns(index._index)
        return index

    def _tokens(self, query: str) -> list[int]:
        """Ids of the query's tokens that some passage has; a token that occurs twice is there twice."""
        # As a stream, since a progress bar costs half the time even where it is not shown.
        return next(self._tokenizer.streaming_tokenize([query], update_vocab=False, allow_empty=False))

    def search(self, queries: Sequence[str], k: int) -> Hits:
        """Finds the k best passages of each of the Q queries, as (Q, k) hits.

        A passage without any token of the query is no hit. The row is -1 where a query has fewer than k hits.
        """
        hits = Hits.empty(len(queries), k)
        for number, query in enumerate(queries):
            tokens = self._tokens(query)
            if self._columns is None or not tokens:
                continue
            rows = self._columns.contenders(tokens, k)
            scores = self._columns.scores(tokens, rows)
            best = np.lexsort((rows, -scores))[:k]
            hits.rows[number, : len(best)] = rows[best]
            hits.scores[number, : len(best)] = scores[best]
        return hits

    def score(self, query: str, rows: np.ndarray) -> np.ndarray:
        """(C,) float32 scores of C passages for one query; `rows` is (C,) int64.

        They equal those of `search` to the bit, and their cost grows with C and hardly with the corpus.
        """
        if self._columns is None:
            return np.zeros(len(rows), dtype=np.float32)
        return self._columns.scores(self._tokens(query), rows)


def _columns(index: bm25s.BM25 | None) -> ScoreColumns | None:
    """The matrix of an index, one column a token, whose values are the terms of the formula's sum."""
    if index is None:
        return None
    matrix = index.scores
    return ScoreColumns(matrix["data"], matrix["indices"], matrix["indptr"], matrix["num_docs"])


def bm25_index(passages: Table, settings: Bm25Settings) -> Bm25Index:
    """Returns the index over all PASSAGES that the workers of this machine share."""
    return Bm25Index.shared(passages.fingerprint, lambda: passage_texts(passages), text_settings(settings))


def text_settings(settings: Bm25Settings) -> TextSettings:
    """Language and tokenizer of a retriever or a teacher; English words where it names none."""
    return TextSettings(settings.language or ENGLISH.language, settings.tokenizer == "ngrams")


def passage_texts(table: Table) -> Iterator[list[str]]:
    """Yields batches of passage texts ("title text"), in the order of PASSAGES."""
    for batch in table.batches(["title", "text"]):
        titles, texts = batch.column("title").to_pylist(), batch.column("text").to_pylist()
        yield [passage_text(title, text) for title, text in zip(titles, texts, strict=True)]
