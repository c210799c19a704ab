"""BM25 over the passages: a retriever that needs no training, and a teacher that scores given pairs.

One index serves both, so a candidate's score as a teacher is its score as a hit. Lucene's variant, as bm25s has it.
The workers of a machine share one: the first of them builds it, all of them map it into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cluster.machines.shared_folder import shared_folder
from cluster.tables.table import Table
from distill.encoders.texts import passage_text
from distill.retrieval.search import Hits

if TYPE_CHECKING:
    from bm25s.tokenization import Tokenizer

K1 = 1.5
B = 0.75
EMPTY = "passages"  # file of a saved index without a token: how many passages it has


class Bm25Index:
    """An index over all passages; rows are positions in the order given.

    The score of passage d for query q is the sum over the tokens t of q of
    `ln(1 + (N - df_t + 0.5) / (df_t + 0.5)) * tf / (tf + k1 * (1 - b + b * |d| / avgdl))`:
    Kamphuis et al., "Which BM25 Do You Mean?", ECIR 2020, "Lucene (accurate)".

    Args:
        texts: batches of passage texts ("title text"); only their token ids are kept.
        stop_words: leave out English stop words.
    """

    def __init__(self, texts: Iterable[Sequence[str]], stop_words: bool = True) -> None:
        import bm25s
        from bm25s.tokenization import Tokenized

        self._tokenizer = _tokenizer(stop_words)
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

    @classmethod
    def shared(cls, name: str, texts: Callable[[], Iterable[Sequence[str]]]) -> Bm25Index:
        """The index of these texts, that all processes of this machine share; built here if none of them has yet.

        Where temporary files cannot be written, it is built for this process alone.

        Args:
            name: tells the texts.
            texts: gives them, batch by batch, if they are needed.

        Raises:
            InputError: the folder for this user's temporary files is not the user's alone.
        """
        built: list[Bm25Index] = []

        def build(folder: Path) -> None:
            built.append(cls(texts()))
            built[0].save(folder)

        try:
            return cls.load(shared_folder(f"bm25-{name}", build))
        except OSError:
            return built[0] if built else cls(texts())

    def save(self, folder: Path) -> None:
        """Writes the index into an empty folder: arrays of numbers and JSON."""
        if self._index is None:
            (folder / EMPTY).write_text(str(self.passages))
            return
        self._index.save(folder, show_progress=False)
        self._tokenizer.save_vocab(folder)

    @classmethod
    def load(cls, folder: Path, stop_words: bool = True) -> Bm25Index:
        """An index that was saved; its arrays are mapped into memory and not read."""
        import bm25s

        index = cls.__new__(cls)
        index._tokenizer, index._index = _tokenizer(stop_words), None
        if (folder / EMPTY).exists():
            index.passages = int((folder / EMPTY).read_text())
        else:
            index._tokenizer.load_vocab(folder)
            index._index = bm25s.BM25.load(folder, mmap=True, load_vocab=False)
            index.passages = index._index.scores["num_docs"]
        return index

    def _scores(self, query: str) -> np.ndarray:
        """(passages,) float32 scores of every passage; zeros if no token of the query is in any passage."""
        tokens = self._tokenizer.tokenize(
            [query], update_vocab=False, return_as="ids", allow_empty=False, show_progress=False
        )[0]
        if not tokens or self._index is None:
            return np.zeros(self.passages, dtype=np.float32)
        return self._index.get_scores_from_ids(tokens)

    def search(self, queries: Sequence[str], k: int) -> Hits:
        """The k best passages of each query; a passage that shares no token with it is no hit (row -1)."""
        hits = Hits.empty(len(queries), k)
        for number, query in enumerate(queries):
            scores = self._scores(query)
            found = np.flatnonzero(scores > 0)
            if len(found) > k:
                # Everything that ties with the k-th stays for the sort, so that the smaller row wins as documented.
                kth = np.partition(scores[found], len(found) - k)[len(found) - k]
                found = found[scores[found] >= kth]
            order = found[np.lexsort((found, -scores[found]))][:k]
            hits.rows[number, : len(order)] = order
            hits.scores[number, : len(order)] = scores[order]
        return hits

    def score(self, query: str, rows: np.ndarray) -> np.ndarray:
        """(C,) float32 scores of the passages in `rows` (C,) int64 for one query."""
        return self._scores(query)[rows]


def _tokenizer(stop_words: bool) -> Tokenizer:
    import Stemmer
    from bm25s.tokenization import Tokenizer

    return Tokenizer(stemmer=Stemmer.Stemmer("english"), stopwords="english" if stop_words else None)


def bm25_index(passages: Table) -> Bm25Index:
    """The index over all PASSAGES, that the workers of this machine share."""
    return Bm25Index.shared(passages.fingerprint, lambda: passage_texts(passages))


def passage_texts(table: Table) -> Iterator[list[str]]:
    """Batches of "title text" of all passages, in the order of PASSAGES."""
    for batch in table.batches(["title", "text"]):
        titles, texts = batch.column("title").to_pylist(), batch.column("text").to_pylist()
        yield [passage_text(title, text) for title, text in zip(titles, texts, strict=True)]
