"""Which of a query's candidates form its list. Pure functions over the candidates that may enter it.

All return `(length,) int64` positions among the `(C,)` candidates, by descending score, and ties in the order of the
candidates. The best candidate is always one of them. C is at least `length`.

A list of the best alone is full of near misses; a sample at random is full of passages that nobody would confuse. How
to draw between the two is a question of its own: arXiv 2604.04734 finds lists that cover the teacher's scores evenly
better than both.
"""

from __future__ import annotations

import numpy as np

NOT_FOUND = -1  # the rank of a candidate that the student did not find


def choose(scores: np.ndarray, length: int, how: str, student_ranks: np.ndarray | None = None) -> np.ndarray:
    """The candidates of a list.

    Args:
        scores: `(C,)` ensemble scores.
        length: passages of the list.
        how: `lists.choice` of the recipe.
        student_ranks: `(C,)` int ranks that the student gives, lowest first, `NOT_FOUND` where it gives none; for
            contested.
    """
    if how == "top":
        return top(scores, length)
    if how == "contested":
        assert student_ranks is not None, "the recipe is refused without the student's scores"
        return contested(scores, length, student_ranks)
    return {"spread": spread, "stratified": stratified}[how](scores, length)


def top(scores: np.ndarray, length: int) -> np.ndarray:
    """The `length` best."""
    return np.argsort(-scores, kind="stable")[:length]


def contested(scores: np.ndarray, length: int, student_ranks: np.ndarray) -> np.ndarray:
    """Half of the list, rounded up, are the teachers' best; the others are what the student ranks highest of the rest.

    So the list holds where the two disagree: passages that the student would show and the teachers would not. Where
    the student found too few, the best by teacher score fill the list.
    """
    order = top(scores, len(scores))
    best, rest = order[: -(-length // 2)], order[-(-length // 2) :]
    ranks = student_ranks[rest].astype(np.float64)
    ranks[ranks == NOT_FOUND] = np.inf
    hardest = rest[np.argsort(ranks, kind="stable")[: length - len(best)]]
    return _by_score(np.concatenate([best, hardest]), scores)


def spread(scores: np.ndarray, length: int) -> np.ndarray:
    """Candidates at equal distances in the teachers' ranking, from the first to the last."""
    return top(scores, len(scores))[np.linspace(0, len(scores) - 1, length).round().astype(np.int64)]


def stratified(scores: np.ndarray, length: int) -> np.ndarray:
    """Candidates at equal distances in the teachers' scores, from the highest to the lowest.

    For each of `length` such scores, the highest first, it takes the candidate that is nearest and not yet taken.
    """
    free = np.ones(len(scores), dtype=bool)
    chosen = np.empty(length, dtype=np.int64)
    for number, target in enumerate(np.linspace(scores.max(), scores.min(), length)):
        chosen[number] = np.where(free, np.abs(scores - target), np.inf).argmin()
        free[chosen[number]] = False
    return _by_score(chosen, scores)


def ranks_of(scores: np.ndarray) -> np.ndarray:
    """`(C,)` ranks of candidates by descending score, from 0; ties in the order of the candidates."""
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[top(scores, len(scores))] = np.arange(len(scores))
    return ranks


def _by_score(positions: np.ndarray, scores: np.ndarray) -> np.ndarray:
    positions = np.sort(positions)
    return positions[top(scores[positions], len(positions))]
