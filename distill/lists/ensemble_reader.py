"""Reads the score tables of all teachers side by side, and the scale of a run from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.errors import InputError
from cluster.tables.lineage import Lineage
from cluster.tables.row_reader import RowReader
from cluster.tables.table import Table
from distill.lists.build import Scale, scale_of
from distill.lists.ensemble import Ensemble
from distill.settings import ListSettings

SAMPLED_QUERIES = 50_000  # whose scores give the percentiles
SAMPLED_AT_ONCE = 500  # consecutive queries that are read together


class ScoreReader:
    """Reads the scores of T teachers for rows of CANDIDATES.

    Args:
        tables: SCORES of each teacher.
    """

    def __init__(self, tables: Sequence[Table]) -> None:
        self._readers = [RowReader(table, ["query_id", "scores"], budget_bytes=64 << 20) for table in tables]
        self._lineages = [Lineage(table) for table in tables]

    def read(self, start: int, stop: int) -> dict[str, list[np.ndarray]]:
        """Query id → `(C,) float32` raw scores of each teacher, for rows `start` to `stop` of CANDIDATES.

        A query that a teacher could not score is left out. The other queries of the same shards may be among them.
        """
        per_teacher = []
        for reader, lineage in zip(self._readers, self._lineages, strict=True):
            rows = reader.range(*lineage.outputs(start, stop))
            if not rows.num_rows:
                return {}
            column = rows.column("scores").combine_chunks()
            scores = np.split(column.flatten().to_numpy(), np.cumsum(column.value_lengths().to_numpy())[:-1])
            per_teacher.append(dict(zip(rows.column("query_id").to_pylist(), scores, strict=True)))
        scored_by_all = set.intersection(*(set(scores) for scores in per_teacher))
        return {query: [scores[query] for scores in per_teacher] for query in per_teacher[0] if query in scored_by_all}

    def sample(
        self, queries: int, most: int = SAMPLED_QUERIES, at_once: int = SAMPLED_AT_ONCE
    ) -> dict[str, list[np.ndarray]]:
        """The same of all queries, or of evenly spread ones if there are more than `most`.

        Args:
            queries: rows of CANDIDATES.
            most: queries to read; a few more may come, as `read` says.
            at_once: consecutive queries that are read together.

        Raises:
            InputError: no query has scores of all teachers.
        """
        starts = np.arange(0, queries, at_once)
        if len(starts) > most // at_once:
            starts = starts[np.linspace(0, len(starts) - 1, most // at_once).astype(int)]
        sample: dict[str, list[np.ndarray]] = {}
        for start in starts.tolist():
            sample |= self.read(start, min(start + at_once, queries))
        if not sample:
            raise InputError("no query has scores from all teachers; look at the rejects of the scores stage")
        return sample


class EnsembleReader:
    """Reads the teachers' scores for rows of CANDIDATES and makes one of them.

    Args:
        tables: SCORES of each teacher.
        ensemble: their weights, and how they are combined.
    """

    def __init__(self, tables: Sequence[Table], ensemble: Ensemble) -> None:
        self._scores = ScoreReader(tables)
        self._ensemble = ensemble

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Query id → `(C,) float64` ensemble scores, for rows `start` to `stop` of CANDIDATES.

        A query that a teacher could not score is left out.
        """
        return {query: self._ensemble.scores(scores) for query, scores in self._scores.read(start, stop).items()}

    def scale(self, queries: int, settings: ListSettings) -> Scale:
        """Percentiles over all queries, or over evenly spread ones if there are more than `SAMPLED_QUERIES`.

        Args:
            queries: rows of CANDIDATES.
            settings: the percentiles.

        Raises:
            InputError: no query has scores of all teachers, or every passage has the same score.
        """
        sample = self._scores.sample(queries)
        try:
            return scale_of([self._ensemble.scores(scores) for scores in sample.values()], settings)
        except ValueError as error:
            raise InputError(f"the teachers' scores do not differ: {error}. Use other teachers, or more.") from error
