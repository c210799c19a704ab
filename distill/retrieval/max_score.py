"""The best rows of queries in a sparse matrix of scores, without looking at rows that cannot be among them.

A query's score of a row is the sum of the values that its tokens have there. MaxScore (Turtle and Flood, "Query
evaluation: strategies and optimizations", Information Processing & Management 31 (6), 1995) goes through the rows in
ascending order and keeps the k best so far. As soon as some columns together cannot lift a row above the k-th best, a
row that only they have is passed over, and they are looked up for the other rows alone. In natural text these are the
long columns: words that a large part of the passages has, and that add little. The other columns are added up a window
of rows at a time, as Lucene does.

The loops are compiled by numba. Its compiled code lies beside this file or, where that is not writable, in the user's
cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np

from distill.retrieval.bm25_build import Matrix
from distill.retrieval.search import Hits

WINDOW = 4096  # rows whose sums are added up at once, so that they stay in the fastest cache


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled at its first call, or by an earlier process of this user.

    Other threads go on while it runs, such as the one that reports that a worker is alive.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba has no folder that it may write; then every process compiles for itself
        return numba.njit(nogil=True)(function)


class ScoreColumns:
    """Search in a sparse matrix whose values are all positive.

    Args:
        matrix: with a column for each token and a row for each passage.

    Attributes:
        scored: rows that all searches so far have scored; the others were passed over.
    """

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        self._columns = tuple(_read_only(array) for array in (matrix.values, matrix.owners, matrix.starts))
        self._bounds = _bounds(*self._columns[::2])
        self.scored = 0

    def search(self, queries: Sequence[Sequence[int]], k: int) -> Hits:
        """The k best rows of each of Q queries, as (Q, k) hits.

        A row without any token of the query is no hit. Scores are float32 sums in the order of the query's tokens, a
        token that occurs twice counts twice, and of rows that tie for the last rank those with the lowest numbers are
        there. So hits and scores are those of sums over whole columns, to the bit.

        Args:
            queries: the tokens of each query.
            k: hits per query.
        """
        hits = Hits.empty(len(queries), k)
        starts = np.concatenate([[0], np.cumsum([len(tokens) for tokens in queries])]).astype(np.int64)
        tokens = np.fromiter((token for query in queries for token in query), np.int64, int(starts[-1]))
        self.scored += _search(*self._columns, self._bounds, tokens, starts, hits.rows, hits.scores)
        return hits

    def scores(self, tokens: Sequence[int], rows: np.ndarray) -> np.ndarray:
        """(C,) float32 sums of the tokens' values in C rows, added in the order of the tokens.

        The cost grows with C and hardly with the matrix: rows are found in a column by binary search.
        """
        sums = np.zeros(len(rows), dtype=np.float32)
        _add(*self._columns, np.array(tokens, dtype=np.int64), np.ascontiguousarray(rows, dtype=np.int64), sums)
        return sums


def _read_only(array: np.ndarray) -> np.ndarray:
    """A plain view: compiled code would be made once more for a mapped array, and once more for one to write into."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


@compiled
def _bounds(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(2, tokens) float32 least and largest value of each column; 0 of one without values."""
    bounds = np.zeros((2, len(starts) - 1), np.float32)
    for token in range(len(starts) - 1):
        if starts[token] < starts[token + 1]:
            column = values[starts[token] : starts[token + 1]]
            bounds[0, token], bounds[1, token] = column.min(), column.max()
    return bounds


@compiled
def _place_of(owners: np.ndarray, row: int, start: int, stop: int) -> int:
    """The first place from `start` whose owner is `row` or a later one; `stop` if there is none.

    It steps ahead in doubled steps and then halves the last one, so that a near place costs little.
    """
    step = 1
    while start < stop and owners[start] < row:
        ahead = start + step
        if ahead < stop and owners[ahead] < row:
            start, step = ahead, step * 2
        else:
            low, high = start + 1, min(ahead, stop)
            while low < high:
                middle = (low + high) // 2
                if owners[middle] < row:
                    low = middle + 1
                else:
                    high = middle
            return low
    return start


@compiled
def _add(
    values: np.ndarray, owners: np.ndarray, starts: np.ndarray, tokens: np.ndarray, rows: np.ndarray, sums: np.ndarray
) -> None:
    """Adds the values of the tokens in the rows to their sums."""
    for token in tokens:
        for number, row in enumerate(rows):
            place = _place_of(owners, row, starts[token], starts[token + 1])
            if place < starts[token + 1] and owners[place] == row:
                sums[number] += values[place]


@compiled
def _sink(scores: np.ndarray, rows: np.ndarray, place: int, size: int) -> None:
    """Moves an entry of a heap down to where it belongs; the first entry is the worst: lowest score, then last row."""
    while True:
        worst = place
        for child in (2 * place + 1, 2 * place + 2):
            if child < size and (
                scores[child] < scores[worst] or (scores[child] == scores[worst] and rows[child] > rows[worst])
            ):
                worst = child
        if worst == place:
            return
        scores[place], scores[worst] = scores[worst], scores[place]
        rows[place], rows[worst] = rows[worst], rows[place]
        place = worst


@compiled
def _search(
    values: np.ndarray,
    owners: np.ndarray,
    starts: np.ndarray,
    bounds: np.ndarray,
    tokens: np.ndarray,
    firsts: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
) -> int:
    """Fills (Q, k) rows and scores, which hold -1 and -inf, with the best; returns how many rows it has scored.

    Args:
        values, owners, starts: the matrix.
        bounds: `(2, tokens) float32` least and largest value of each column.
        tokens: those of all queries, one query after the other.
        firsts: `(Q + 1,) int64`, where the tokens of each query begin.
        rows, scores: where the best are written.
    """
    scored = 0
    for query in range(len(rows)):
        wanted = tokens[firsts[query] : firsts[query + 1]]
        scored += _search_one(values, owners, starts, bounds, wanted, rows[query], scores[query])
        for size in range(len(rows[query]) - 1, 0, -1):  # the worst of those that are left goes to the end
            rows[query, 0], rows[query, size] = rows[query, size], rows[query, 0]
            scores[query, 0], scores[query, size] = scores[query, size], scores[query, 0]
            _sink(scores[query], rows[query], 0, size)
    return scored


@compiled
def _search_one(
    values: np.ndarray,
    owners: np.ndarray,
    starts: np.ndarray,
    bounds: np.ndarray,
    wanted: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
) -> int:
    """Makes a heap of the k best rows of one query; as `_search`.

    A sum of m float32 values is rounded by at most m 2^-24 of the largest sum that there can be (Higham, "Accuracy and
    Stability of Numerical Algorithms", SIAM 2002, section 4.2). Two such sums are compared, and `error` is more than
    twice what both are rounded.
    """
    columns, times, column_of = _columns_of(wanted, bounds[1])
    reach = np.cumsum(times * bounds[1, columns])  # reach[i]: the most that the columns up to i can add to a row
    error = (len(wanted) + 1) * 2.0**-21 * reach[-1] if len(columns) else 0.0
    places, stops = starts[columns], starts[columns + 1]
    bar = _lowest_bar(times * bounds[0, columns], stops - places, len(rows)) - error  # what a row must be above
    looked = places.copy()  # where rows are looked up; `places` is where they are added up
    own = np.empty(len(columns), np.float32)  # the values of one row
    sums = np.zeros(WINDOW, np.float32)  # of the rows of a window; all 0 between two windows
    seen = np.empty(WINDOW, np.int64)
    first, scored = 0, 0  # rows of the columns before `first` alone are passed over
    while True:
        while first < len(columns) and reach[first] + error <= bar:
            first += 1
        start = _next_row(owners, places, stops, first)
        if start < 0:
            return scored
        count = _add_window(values, owners, places, stops, times, first, start, sums, seen)
        below = reach[first - 1] if first else 0.0
        for place in _contenders(sums, seen[:count], bar - below - error):
            total, column = sums[place], first
            sums[place] = 0
            while column > 0 and total + reach[column - 1] + error > bar:
                column -= 1
                own[column] = _value(values, owners, looked, stops, column, start + place)
                total += times[column] * own[column]
            if column > 0 or total + error <= bar:
                continue
            for column in range(first, len(columns)):
                own[column] = _value(values, owners, looked, stops, column, start + place)
            scored += 1
            score = np.float32(0)
            for column in column_of:
                score += own[column]
            if score > bar:  # a row that ties with the worst has a higher number
                scores[0], rows[0] = score, start + place
                _sink(scores, rows, 0, len(rows))
                bar = max(bar, scores[0])


@compiled
def _lowest_bar(least: np.ndarray, sizes: np.ndarray, k: int) -> float:
    """What the k-th best row has at least: every row of a column has its least value, and k rows may have the column.

    Args:
        least: `(C,)` least that each column adds to its rows.
        sizes: `(C,)` rows of each column.
        k: hits of the query.
    """
    bar = -np.inf
    for column in range(len(least)):
        if sizes[column] >= k:
            bar = max(bar, least[column])
    return bar


@compiled
def _contenders(sums: np.ndarray, seen: np.ndarray, least: float) -> np.ndarray:
    """The rows of a window whose sums are above `least`, ascending; the sums of the others become 0 again."""
    count = 0
    for row in seen:
        if sums[row] > least:
            seen[count] = row
            count += 1
        else:
            sums[row] = 0
    return np.sort(seen[:count])


@compiled
def _add_window(
    values: np.ndarray,
    owners: np.ndarray,
    places: np.ndarray,
    stops: np.ndarray,
    times: np.ndarray,
    first: int,
    start: int,
    sums: np.ndarray,
    seen: np.ndarray,
) -> int:
    """Adds up the columns from `first` on in the window that begins with row `start`; returns how many rows it saw.

    Their numbers in the window go to `seen`, and the columns' places move on behind the window.
    """
    count = 0
    for column in range(first, len(places)):
        place, weight = places[column], np.float32(times[column])
        while place < stops[column] and owners[place] < start + len(sums):
            number = owners[place] - start
            if sums[number] == 0:
                seen[count] = number
                count += 1
            sums[number] += weight * values[place]
            place += 1
        places[column] = place
    return count


@compiled
def _value(
    values: np.ndarray, owners: np.ndarray, places: np.ndarray, stops: np.ndarray, column: int, row: int
) -> np.float32:
    """The value of a row in a column, whose place moves on to the row; 0 if the column does not have it."""
    places[column] = _place_of(owners, row, places[column], stops[column])
    if places[column] < stops[column] and owners[places[column]] == row:
        return values[places[column]]
    return np.float32(0)


@compiled
def _columns_of(wanted: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The columns of a query, how often it has each, and for each of its tokens the number of its column.

    The columns stand in the order of what they can add.
    """
    columns = np.unique(wanted)
    times = np.zeros(len(columns))
    for token in wanted:
        times[np.searchsorted(columns, token)] += 1
    order = np.argsort(times * bounds[columns])
    columns, times = columns[order], times[order]
    column_of = np.empty(len(wanted), np.int64)
    for number, token in enumerate(wanted):
        for place, column in enumerate(columns):
            if column == token:
                column_of[number] = place
    return columns, times, column_of


@compiled
def _next_row(owners: np.ndarray, places: np.ndarray, stops: np.ndarray, first: int) -> int:
    """The first row that the columns from `first` on still have; -1 if they have none."""
    following = -1
    for column in range(first, len(places)):
        if places[column] < stops[column] and (following < 0 or owners[places[column]] < following):
            following = owners[places[column]]
    return following
