"""BM25 over the passages: a retriever that needs no training, and a teacher that scores given pairs.

One index serves both, so a candidate's score as a teacher is its score as a hit. Lucene's variant, as bm25s has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from distill.search import Hits

K1 = 1.5
B = 0.75


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
        import Stemmer
        from bm25s.tokenization import Tokenized, Tokenizer

        self._tokenizer = Tokenizer(stemmer=Stemmer.Stemmer("english"), stopwords="english" if stop_words else None)
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
