"""Reads the score tables of all teachers side by side, and the scale of a run from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cluster.errors import InputError
from cluster.tables.lineage import Lineage
from cluster.tables.row_reader import RowReader
from cluster.tables.table import Table
from distill.lists.build import Scales, scales_of, sources_are_first
from distill.lists.ensemble import Ensemble
from distill.settings.lists import ListSettings

SAMPLED_QUERIES = 50_000  # whose scores give the percentiles
SAMPLED_AT_ONCE = 500  # consecutive queries that are read together
NO_SCORES = "no query has scores from all teachers; look at the rejects of the scores stage"


def sampled_ranges(queries: int, most: int, at_once: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of CANDIDATES that hold all queries, or evenly spread ones if there are more than `most`."""
    starts = np.arange(0, queries, at_once)
    if len(starts) > most // at_once:
        starts = starts[np.linspace(0, len(starts) - 1, most // at_once).astype(int)]
    for start in starts.tolist():
        yield start, min(start + at_once, queries)


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
        sample: dict[str, list[np.ndarray]] = {}
        for start, stop in sampled_ranges(queries, most, at_once):
            sample |= self.read(start, stop)
        if not sample:
            raise InputError(NO_SCORES)
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

    def scale(self, candidates: Table, settings: ListSettings) -> Scales:
        """Percentiles over all queries, or over evenly spread ones if there are more than `SAMPLED_QUERIES`.

        A copy of a source counts here as any other passage: no texts are read for the percentiles.

        Args:
            candidates: CANDIDATES.
            settings: the percentiles.

        Raises:
            InputError: no query has scores of all teachers, or every passage has the same score.
        """
        finds = settings.best_percentile_of == "all" and settings.require_source_first
        columns = ["query_id", "query_type", *(["source_id", "second_source_id", "passage_ids"] if finds else [])]
        reader = RowReader(candidates, columns, budget_bytes=0) if finds or settings.percentiles_per_type else None
        scores: dict[str, np.ndarray] = {}
        types: dict[str, str] = {}
        first: dict[str, bool] = {}
        for start, stop in sampled_ranges(candidates.num_rows, SAMPLED_QUERIES, SAMPLED_AT_ONCE):
            read = self.read(start, stop)
            if reader is None:
                scores |= read
                continue
            for row in reader.range(start, stop).to_pylist():
                if (query := row["query_id"]) in read:
                    scores[query], types[query] = read[query], row["query_type"]
                    first[query] = not finds or sources_are_first(read[query], sources_of(row))
        if not scores:
            raise InputError(NO_SCORES)
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
