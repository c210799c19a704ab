"""The teachers' scores of a run, read for rows of CANDIDATES and summed; and the scale that a sample of them gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cluster.errors import InputError
from cluster.tables.lineage import Lineage
from cluster.tables.row_reader import RowReader
from cluster.tables.table import Table
from distill.lists.build import Scales, ensemble_scores, scales_of, sources_are_first
from distill.settings import ListSettings

SAMPLED_QUERIES = 50_000  # whose scores give the percentiles
SAMPLED_AT_ONCE = 500  # consecutive queries that are read together


class TeacherReader:
    """Reads one teacher's scores for rows of CANDIDATES.

    Args:
        table: SCORES of the teacher.
    """

    def __init__(self, table: Table) -> None:
        self._reader = RowReader(table, ["query_id", "scores"], budget_bytes=64 << 20)
        self._lineage = Lineage(table)

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Query id → `(C,) float32` scores, for rows `start` to `stop` of CANDIDATES; without rejected queries."""
        rows = self._reader.range(*self._lineage.outputs(start, stop))
        if not rows.num_rows:
            return {}
        column = rows.column("scores").combine_chunks()
        scores = np.split(column.flatten().to_numpy(), np.cumsum(column.value_lengths().to_numpy())[:-1])
        return dict(zip(rows.column("query_id").to_pylist(), scores, strict=True))


class EnsembleReader:
    """Reads the teachers' scores for rows of CANDIDATES and sums them with their weights.

    Args:
        tables: SCORES of each teacher.
        weights: weight of each teacher.
    """

    def __init__(self, tables: Sequence[Table], weights: Sequence[float]) -> None:
        self._teachers = [TeacherReader(table) for table in tables]
        self._weights = weights

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Query id → `(C,) float64` ensemble scores, for rows `start` to `stop` of CANDIDATES.

        A query that a teacher could not score is left out.
        """
        per_teacher = [teacher.read(start, stop) for teacher in self._teachers]
        scored_by_all = set.intersection(*(set(scores) for scores in per_teacher))
        return {
            query: ensemble_scores([scores[query] for scores in per_teacher], self._weights)
            for query in per_teacher[0]
            if query in scored_by_all
        }

    def scale(self, candidates: Table, settings: ListSettings) -> Scales:
        """Percentiles over all queries, or over evenly spread ones if there are more than `SAMPLED_QUERIES`.

        A copy of a source counts here as any other passage: no texts are read for the percentiles.

        Args:
            candidates: CANDIDATES.
            settings: the percentiles.

        Raises:
            InputError: no query has scores of all teachers, or every passage has the same score.
        """
        queries = candidates.num_rows
        starts = np.arange(0, queries, SAMPLED_AT_ONCE)
        most = SAMPLED_QUERIES // SAMPLED_AT_ONCE
        if len(starts) > most:
            starts = starts[np.linspace(0, len(starts) - 1, most).astype(int)]
        finds = settings.best_percentile_of == "all" and settings.require_source_first
        columns = ["query_id", "query_type", *(["source_id", "second_source_id", "passage_ids"] if finds else [])]
        reader = RowReader(candidates, columns, budget_bytes=0) if finds or settings.percentiles_per_type else None
        scores: dict[str, np.ndarray] = {}
        types: dict[str, str] = {}
        first: dict[str, bool] = {}
        for start in starts.tolist():
            stop = min(start + SAMPLED_AT_ONCE, queries)
            read = self.read(start, stop)
            if reader is None:
                scores |= read
                continue
            for row in reader.range(start, stop).to_pylist():
                if (query := row["query_id"]) in read:
                    scores[query], types[query] = read[query], row["query_type"]
                    first[query] = not finds or sources_are_first(read[query], sources_of(row))
        if not scores:
            raise InputError("no query has scores from all teachers; look at the rejects of the scores stage")
        try:
            return scales_of(list(scores.values()), settings, list(types.values()), list(first.values()))
        except ValueError as error:
            raise InputError(f"the teachers' scores do not differ: {error}. Use other teachers, or more.") from error


def sources_of(query: dict[str, Any]) -> list[int]:
    """Places of a query's sources among its candidates, the first source first; -1 for one that is not among them.

    Args:
        query: a row of CANDIDATES. A logged query has no source, one over two passages has two.
    """
    ids = query["passage_ids"]
    sources = [query["source_id"], query.get("second_source_id")]
    return [ids.index(source) if source in ids else -1 for source in sources if source is not None]
