"""How far the teachers of a run agree: pairs of teachers by rank correlation, and by the passages they put first.

Two teachers that agree on everything are one teacher paid twice. It is recorded in `agreement/record.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.tables.table import Table
from distill.lists.ensemble import ranks
from distill.lists.ensemble_reader import ScoreReader

if TYPE_CHECKING:
    from cluster.run import Run

FOLDER = "agreement"
SAMPLED_QUERIES = 1_000
SAMPLED_AT_ONCE = 50  # consecutive queries that are read together
FIRST = 10  # passages whose overlap is counted


def build(run: Run, scores: Mapping[str, Table], candidates: Table) -> list[dict[str, Any]]:
    """Agreement of every pair of teachers on a sample of the queries; empty if there is one teacher.

    Args:
        run: the run.
        scores: SCORES of each teacher, by name.
        candidates: CANDIDATES.

    Returns:
        Records as `pair_agreement` gives them, with `first` and `second`, the names of the teachers.

    Raises:
        InputError: no query has scores of all teachers.
    """
    names = list(scores)
    if len(names) < 2:
        return []

    def compare() -> dict[str, Any]:
        sample = list(
            ScoreReader(list(scores.values())).sample(candidates.num_rows, SAMPLED_QUERIES, SAMPLED_AT_ONCE).values()
        )
        if len(sample) > SAMPLED_QUERIES:
            sample = [sample[number] for number in np.linspace(0, len(sample) - 1, SAMPLED_QUERIES).astype(int)]
        pairs = [
            {
                "first": names[first],
                "second": names[second],
                **pair_agreement([query[first] for query in sample], [query[second] for query in sample]),
            }
            for first, second in combinations(range(len(names)), 2)
        ]
        return {"pairs": pairs}

    fingerprint = {"inputs": {name: table.fingerprint for name, table in scores.items()}}
    return run.execute_in_process(FOLDER, fingerprint, compare, title="agreement of teachers")["pairs"]


def pair_agreement(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> dict[str, Any]:
    """Agreement of two teachers over the same candidates.

    Args:
        first, second: `(C,)` scores of each query by one teacher and by the other; C may differ between queries.

    Returns:
        `queries`, their number; `tau`, the mean of Kendall's tau-b of each query, without those where a teacher scores
        all candidates alike (None if none is left); `overlap`, the mean share of the first ten passages of one teacher
        that are among the first ten of the other.
    """
    from scipy.stats import kendalltau

    taus = [kendalltau(one, other).statistic for one, other in zip(first, second, strict=True)]
    defined = [float(tau) for tau in taus if np.isfinite(tau)]
    overlaps = []
    for one, other in zip(first, second, strict=True):
        both = (ranks(one) <= FIRST) & (ranks(other) <= FIRST)
        overlaps.append(both.sum() / min(FIRST, len(one)))
    return {
        "queries": len(first),
        "tau": float(np.mean(defined)) if defined else None,
        "overlap": float(np.mean(overlaps)),
    }
