"""The best rows of a query in a sparse matrix of scores, without reading the columns that cannot change them.

MaxScore: Turtle and Flood, "Query evaluation: strategies and optimizations", Information Processing & Management 31
(6), 1995. A query's score of a row is the sum of the values that its tokens have there. Columns are added from the
shortest to the longest. As soon as all columns that are left could not lift an unseen row above the k-th best sum so
far, no new row is looked at: the rows seen are looked up in the columns that are left. In natural text these are the
long ones, words that a large part of the passages has and that add little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from distill.retrieval.bm25_build import Matrix

ENOUGH = 4  # times k rows: so few are not looked up any more, since whoever asked scores them exactly


class ScoreColumns:
    """Search in a sparse matrix whose values are all positive.

    Args:
        matrix: with a column for each token and a row for each passage.
    """

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        # Plain views: a slice of a memory-mapped array costs more than what is done with it.
        self._values, self._owners, self._starts = map(np.asarray, (matrix.values, matrix.owners, matrix.starts))
        self._sums = np.zeros(matrix.passages, np.float32)  # all zero between two queries
        self._largest: dict[int, float] = {}

    def column(self, token: int) -> tuple[np.ndarray, np.ndarray]:
        """(n,) rows, ascending, and (n,) float32 values of a token."""
        start, stop = int(self._starts[token]), int(self._starts[token + 1])
        return self._owners[start:stop], self._values[start:stop]

    def scores(self, tokens: Sequence[int], rows: np.ndarray) -> np.ndarray:
        """(C,) float32 sums of the tokens' values in C rows, added in the order of the tokens.

        The cost grows with C and hardly with the matrix: rows are found in a column by binary search.
        """
        sums = np.zeros(len(rows), dtype=np.float32)
        wanted = rows.astype(self._owners.dtype)  # else numpy would copy the column
        for token in tokens:
            sums += self._at(token, wanted)
        return sums

    def contenders(self, tokens: Sequence[int], k: int) -> np.ndarray:
        """Rows among which are the k best of a query, with all that tie with the k-th; in no order.

        Only rows with a token are there, so they can be fewer than k. A sum of m values is rounded by at most m 2^-24
        of the largest sum that there can be (Higham, "Accuracy and Stability of Numerical Algorithms", SIAM 2002,
        section 4.2). A row that is left out is below the k-th by four times that: its sum and the k-th may each be
        rounded here and once more by `scores`, which adds in another order.
        """
        times = Counter(tokens)
        order = sorted(times, key=lambda token: int(self._starts[token + 1] - self._starts[token]))
        bounds = [times[token] * self._bound(token) for token in order]
        left = np.append(np.cumsum(bounds[::-1])[::-1], 0.0)  # left[i]: what the columns from i on can add to a row
        error = 4 * (len(tokens) + 1) * 2.0**-24 * left[0]
        parts: list[np.ndarray] = []
        count, place = 0, 0
        for place, token in enumerate(order, start=1):
            rows, values = self.column(token)
            sums = self._sums[rows]
            parts.append(rows[sums == 0])
            count += len(parts[-1])
            self._sums[rows] = sums + np.float32(times[token]) * values
            # No sum is larger than what these columns can add, so the k-th is looked for only where it may be enough.
            needed = left[place] + error
            if count >= k and needed < left[0] - left[place] and needed < _kth(self._sums[np.concatenate(parts)], k):
                break
        seen = np.concatenate(parts) if parts else np.empty(0, self._owners.dtype)
        sums = self._sums[seen]
        self._sums[seen] = 0
        for later in range(place, len(order) + 1):
            kept = sums + left[later] >= _kth(sums, k) - error
            seen, sums = seen[kept], sums[kept]
            if later == len(order) or len(seen) <= ENOUGH * k:
                break
            sums += np.float32(times[order[later]]) * self._at(order[later], seen)
        return seen

    def _at(self, token: int, rows: np.ndarray) -> np.ndarray:
        """(C,) float32 values of a token in C rows, which have the dtype of the owners; 0 where it has none."""
        owners, values = self.column(token)
        if not len(owners):
            return np.zeros(len(rows), np.float32)
        places = np.minimum(np.searchsorted(owners, rows), len(owners) - 1)
        return np.where(owners[places] == rows, values[places], np.float32(0))

    def _bound(self, token: int) -> float:
        """The largest value of a token."""
        if token not in self._largest:
            self._largest[token] = float(self.column(token)[1].max(initial=0.0))
        return self._largest[token]


def _kth(sums: np.ndarray, k: int) -> float:
    """The k-th largest of the sums; minus infinity where they are fewer."""
    return float(np.partition(sums, len(sums) - k)[len(sums) - k]) if len(sums) >= k else -np.inf
