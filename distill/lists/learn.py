"""Weights of teachers that rank sources first: a search over a grid. Pure functions, no files.

The source of a written query is the one passage that is known to answer it. So weights are good if they rank sources
high; the measure is the mean reciprocal rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEPS = 20  # weights are multiples of 1 / STEPS and add up to 1


class SourceRanks:
    """Mean reciprocal rank of the sources of Q queries, for any weights of T teachers.

    Args:
        parts: one `(T, C)` array per query: what each teacher adds before its weight. C may differ.
        sources: position of each query's source among its candidates.
    """

    def __init__(self, parts: Sequence[np.ndarray], sources: Sequence[int]) -> None:
        self._sources = np.asarray(sources, dtype=np.int64)
        longest = max(part.shape[1] for part in parts)
        self._parts = np.zeros((len(parts), parts[0].shape[0], longest))
        self._is_padding = np.ones((len(parts), longest), dtype=bool)
        for number, part in enumerate(parts):
            self._parts[number, :, : part.shape[1]] = part
            self._is_padding[number, : part.shape[1]] = False

    def mean_reciprocal_rank(self, weights: Sequence[float] | np.ndarray) -> float:
        """The mean over all queries; of equal scores the earlier position has the better rank."""
        scores = np.einsum("t,qtc->qc", np.asarray(weights, dtype=np.float64), self._parts)
        scores[self._is_padding] = -np.inf
        own = np.take_along_axis(scores, self._sources[:, None], axis=1)
        is_earlier = np.arange(scores.shape[1])[None, :] < self._sources[:, None]
        better = (scores > own) | ((scores == own) & is_earlier)
        return float((1.0 / (1 + better.sum(axis=1))).mean())


def learn_weights(ranks: SourceRanks, given: Sequence[float]) -> tuple[float, ...]:
    """The weights on the grid with the highest mean reciprocal rank that the search finds; they add up to 1.

    The search begins at the grid point nearest to the given weights, at equal weights, and at each teacher alone. From
    there it moves weight from one teacher to another, always by the move that gains most, until none gains anything.
    With two teachers this looks at the whole grid.

    Args:
        ranks: the queries to learn from.
        given: weights of the recipe, positive.
    """
    teachers = len(given)
    starts = [on_grid(given), on_grid([1.0] * teachers)]
    starts += [tuple(STEPS if other == one else 0 for other in range(teachers)) for one in range(teachers)]
    known: dict[tuple[int, ...], float] = {}

    def value(point: tuple[int, ...]) -> float:
        if point not in known:
            known[point] = ranks.mean_reciprocal_rank(np.array(point) / STEPS)
        return known[point]

    best = starts[0]
    for start in starts:
        point = start
        while True:
            moved = max(_moves(point), key=value, default=point)  # of equal ones the first
            if value(moved) <= value(point):
                break
            point = moved
        if value(point) > value(best):
            best = point
    return tuple(units / STEPS for units in best)


def on_grid(weights: Sequence[float]) -> tuple[int, ...]:
    """The weights as multiples of 1 / STEPS, STEPS in all; what rounding down leaves goes to the largest rests."""
    exact = np.asarray(weights, dtype=np.float64) / np.sum(weights) * STEPS
    units = np.floor(exact).astype(int)
    for teacher in np.argsort(-(exact - units), kind="stable")[: STEPS - units.sum()]:
        units[teacher] += 1
    return tuple(units.tolist())


def _moves(point: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All points that differ by weight that one teacher gives to another."""
    moves = []
    for giver, held in enumerate(point):
        for taker in range(len(point)):
            for units in range(1, held + 1) if taker != giver else ():
                moved = list(point)
                moved[giver] -= units
                moved[taker] += units
                moves.append(tuple(moved))
    return moves
