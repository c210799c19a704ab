"""A probe of a teacher: can it tell a passage that answers a query from one that does not?

A model that reads pairs in another form than it was taught gives scores that look like others and say nothing. So it is
asked about pairs of known answer, before a query is written or a candidate is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from cluster.errors import InputError
from cluster.mistakes import read_yaml
from distill.teachers.pairs import Pair, PairScorer

LEAST_RIGHT = 0.7  # share of (matching, other) comparisons of one query that come out right; chance is 0.5
LEAST_DISTINCT = 0.9  # share of scores that differ from all others


@dataclass(frozen=True)
class Verdict:
    """What a probe found.

    Attributes:
        finite: whether all scores are.
        right: share of comparisons in which the matching passage scores higher; 0.5 for equal scores.
        own_text: share of queries whose own text, as a passage, scores above passages on other things.
        distinct: share of scores that differ from all others.
    """

    finite: bool
    right: float
    own_text: float
    distinct: float


@cache
def known_pairs() -> tuple[Pair, ...]:
    """Ten pairs of a query and the passage that answers it."""
    data, _ = read_yaml(Path(str(resources.files("distill"))) / "teachers" / "probe.yaml", "pairs of a probe")
    return tuple((entry["query"], entry["passage"]) for entry in data)


def probe(scorer: PairScorer, known: Sequence[Pair] | None = None) -> Verdict:
    """Asks a scorer about all pairs of the known queries and passages, and of each query and its own text.

    Args:
        scorer: a model.
        known: pairs of a query and the passage that answers it, whose other passages do not; those of `probe.yaml`.
    """
    known = known_pairs() if known is None else known
    queries, passages = [query for query, _ in known], [passage for _, passage in known]
    count = len(known)
    pairs = [(query, passage) for query in queries for passage in passages] + [(query, query) for query in queries]
    scores = scorer.score(pairs).astype(np.float64)
    grid, own = scores[: count * count].reshape(count, count), scores[count * count :]
    others = grid[~np.eye(count, dtype=bool)].reshape(count, count - 1)
    return Verdict(
        bool(np.isfinite(scores).all()),
        _won(np.diag(grid), others),
        _won(own, others),
        len(np.unique(grid)) / grid.size if grid.size else 0.0,
    )


def _won(better: np.ndarray, others: np.ndarray) -> float:
    """Share of comparisons of (Q,) scores with (Q, N) others of the same query that the first win; a tie is half."""
    difference = better[:, None] - others
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def refuse_a_blind(name: str, scorer: PairScorer) -> Verdict:
    """Refuses a teacher that fails the probe, and shows what was sent to its model.

    Args:
        name: of the teacher in the recipe.
        scorer: its model.

    Raises:
        InputError: the scores are not finite, hardly differ, or do not tell passages apart.
    """
    verdict = probe(scorer)
    problems = []
    if not verdict.finite:
        problems.append("its scores are not finite")
    elif verdict.distinct < LEAST_DISTINCT:
        problems.append(f"only {verdict.distinct:.0%} of the scores of a hundred pairs differ from each other")
    elif verdict.right < LEAST_RIGHT or verdict.own_text < LEAST_RIGHT:
        problems.append(
            f"it ranks the passage that answers a query above one that does not in {verdict.right:.0%} of comparisons, "
            f"and the query's own text in {verdict.own_text:.0%}, where chance gives 50 %"
        )
    if problems:
        raise InputError(
            f"teachers.{name}: the model cannot be used, because {problems[0]}. It may have been taught another form "
            f"of pairs. It was sent:\n{scorer.shown(known_pairs()[0])}\nSet `template` (docs/teachers.md lists those "
            "of known models), or another model. A model that knows no English fails too, though it may be good: set "
            "probe: false."
        )
    return verdict
