"""BM25 over the passages: a retriever without training, and a teacher that scores given pairs.

One index serves both, so a pair has the same score in retrieval and from the teacher. The tokenizer is that of bm25s.
The workers of a machine share one index: the first worker builds it, and all workers map it into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cluster.machines.shared_folder import shared_folder
from cluster.tables.table import Table
from distill.encoders.texts import passage_text
from distill.retrieval.bm25_build import build_matrix, load_matrix
from distill.retrieval.max_score import ScoreColumns
from distill.retrieval.search import Hits
from distill.retrieval.tokenizers import TextSettings
from distill.settings.retrieval import Bm25Settings

ENGLISH = TextSettings()
PASSAGES_FILE = "passages"  # of a saved index: the number of its passages


class Bm25Index:
    """BM25 index over all passages. A passage's row is its position in `texts`.

    The score of a passage for a query is the sum of the matrix's values over the tokens of the query
    (`distill/retrieval/bm25_build.py` has the formula).

    Args:
        texts: batches of passage texts ("title text"); the index keeps only what their tokens are worth.
        stop_words: whether stop words of the language are left out.
        reads: language and tokenizer of passages and queries.
        folder: an empty folder, into which the index is saved; None keeps it in memory.
    """

    def __init__(
        self,
        texts: Iterable[Sequence[str]],
        stop_words: bool = True,
        reads: TextSettings = ENGLISH,
        folder: Path | None = None,
    ) -> None:
        self._tokenizer = reads.tokenizer(stop_words)
        self._columns = ScoreColumns(build_matrix(self._read(texts), folder))
        if folder is not None:
            (folder / PASSAGES_FILE).write_text(str(self.passages))
            self._tokenizer.save_vocab(folder)

    @property
    def passages(self) -> int:
        """Number of passages."""
        return self._columns.matrix.passages

    def _read(self, texts: Iterable[Sequence[str]]) -> Iterator[list[int]]:
        """The token ids of each passage; new words enter the vocabulary."""
        for batch in texts:
            yield from self._tokenizer.tokenize(
                list(batch), update_vocab=True, return_as="ids", allow_empty=False, show_progress=False
            )

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
            indexes.append(cls(texts(), reads=reads, folder=folder))

        try:
            return cls.load(shared_folder(f"bm25-columns-{name}-{reads.name()}", build), reads=reads)
        except OSError:
            return indexes[0] if indexes else cls(texts(), reads=reads)

    @classmethod
    def load(cls, folder: Path, stop_words: bool = True, reads: TextSettings = ENGLISH) -> Bm25Index:
        """Opens an index that was built into a folder with the same `reads`; its matrix is mapped into memory."""
        index = cls.__new__(cls)
        index._tokenizer = reads.tokenizer(stop_words)
        index._tokenizer.load_vocab(folder)
        index._columns = ScoreColumns(load_matrix(folder, int((folder / PASSAGES_FILE).read_text())))
        return index

    def token_ids(self, queries: Sequence[str]) -> list[list[int]]:
        """Ids of each query's tokens that some passage has; a token that occurs twice is there twice."""
        # As a stream, since a progress bar costs half the time even where it is not shown.
        return list(self._tokenizer.streaming_tokenize(list(queries), update_vocab=False, allow_empty=False))

    def search(self, queries: Sequence[str], k: int) -> Hits:
        """Finds the k best passages of each of the Q queries, as (Q, k) hits.

        A passage without any token of the query is no hit. The row is -1 where a query has fewer than k hits.
        """
        return self._columns.search(self.token_ids(queries), k)

    def score(self, query: str, rows: np.ndarray) -> np.ndarray:
        """(C,) float32 scores of C passages for one query; `rows` is (C,) int64.

        They equal those of `search` to the bit, and their cost grows with C and hardly with the corpus.
        """
        (tokens,) = self.token_ids([query])
        return self._columns.scores(tokens, rows)


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
