"""What people judged relevant to the judged queries of a run, and what follows for scores: it stands first.

A written query has a source, which teachers may rank as they like: a filter looks at that. A judged query has what a
person found relevant. So its relevant passages get the best score of the list, whatever the teachers say, no filter for
queries that nothing answers takes it, and in the dev split nothing else counts as relevant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cluster.schemas import JUDGED_TYPE
from cluster.tables.table import Table


class Relevance:
    """Relevant passages of judged queries; of every other query it knows nothing.

    Args:
        judged: JUDGED_QUERIES; None if the run has none.
    """

    def __init__(self, judged: Table | None) -> None:
        self._relevant: dict[str, list[str]] = {}
        for batch in judged.batches(["query_id", "relevant_ids"]) if judged else ():
            self._relevant |= dict(
                zip(batch.column("query_id").to_pylist(), batch.column("relevant_ids").to_pylist(), strict=True)
            )

    def places(self, query: Mapping[str, Any]) -> list[int]:
        """Places of the relevant passages among the candidates of a row of CANDIDATES, the best grade first."""
        ids = query["passage_ids"]
        return [ids.index(one) for one in self._relevant.get(query["query_id"], ()) if one in ids]

    def raised(self, query: Mapping[str, Any], scores: np.ndarray) -> np.ndarray:
        """`(C,)` scores in which what is relevant to a judged query has the best score of any candidate."""
        places = self.places(query)
        if not places:
            return scores
        scores = scores.copy()
        scores[places] = scores.max()
        return scores

    def dev_scores(self, query: Mapping[str, Any], pool: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """`(n,) float32` scores that a dev evaluation takes for the truth: of a judged query 1 for what is relevant.

        All else has 0 then, as in an evaluation on judged queries, however high the teachers' scores are.

        Args:
            query: a row of CANDIDATES.
            pool: `(n,) int64` places of the candidates that may stand in the list.
            scores: `(n,) float32` scaled scores of these, which other queries keep.
        """
        places = self.places(query)
        return np.isin(pool, places).astype(np.float32) if places else scores


def is_judged(query: Mapping[str, Any]) -> bool:
    """Whether a row of QUERIES, CANDIDATES or LISTS is a judged query."""
    return query["query_type"] == JUDGED_TYPE
