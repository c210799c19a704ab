"""Scores that were made elsewhere, as a teacher: a file says what a model, or people, think of queries and passages.

A query is found by its id if the file has that id, and no other text for it; else by its text. Ids of synthetic
queries are those of their sources, so another run over the same corpus may have the same id for another query.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import InputError
from distill.teachers.base import CandidateQuery, Scored
from distill.teachers.given_file import GivenScore, Places, read, same_text

_IDS_PER_CHUNK = 65_536

_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)  # so that the stage's log has it, whatever the level of the process


class GivenScores:
    """The scores of a file, in memory: 16 bytes each, and the ids and texts of its queries.

    Args:
        path: of the file, or of a folder of files.
        passage_ids: (P,) ids of PASSAGES, by row.

    Attributes:
        unknown: scores of passages that the run does not have; they are left out.

    Raises:
        InputError: a line is no score, gives a score a second time, or gives a query another text than before; or no
            passage is one of the run.
    """

    def __init__(self, path: str, passage_ids: pa.ChunkedArray) -> None:
        self.path = path
        self._group_of_id: dict[str, int] = {}  # a group holds the scores under one id, or one text without an id
        self._groups_of_text: dict[str, list[int]] = {}
        self._text: list[str | None] = []
        self._line_of_text: list[int] = []
        self._places = Places()
        groups, scores, lines = array("q"), array("d"), array("q")
        of_text_alone: dict[str, int] = {}
        ids: list[str] = []
        chunks = []
        for one in read(path):
            number = self._places.number(one)
            groups.append(self._group(one, number, of_text_alone))
            scores.append(one.score)
            lines.append(number)
            ids.append(one.passage_id)
            if len(ids) == _IDS_PER_CHUNK:
                chunks.append(pa.array(ids, pa.string()))
                ids = []
        given_ids = pa.chunked_array([*chunks, pa.array(ids, pa.string())])
        rows = _rows_of(given_ids, passage_ids)
        self._arrange(np.array(groups), rows, np.array(scores), np.array(lines))
        self.unknown = int((rows < 0).sum())
        if self.unknown == len(rows):
            example = f", such as '{given_ids[0]}'" if len(rows) else ""
            raise InputError(
                f"{path}: none of its {len(rows)} scores is of a passage of this run{example}. Expected ids such as "
                f"'{passage_ids[0]}', which are those of the corpus."
            )
        if self.unknown:
            _log.warning("%s: %d of %d scores are of passages that the run lacks", path, self.unknown, len(rows))

    def scores_of(self, query: CandidateQuery) -> tuple[np.ndarray, float]:
        """The scores of a query's candidates.

        Returns:
            (C,) float64 scores, NaN where the file has none; and the lowest score that it has for the query, of any
            passage, NaN if it has none.
        """
        scores = np.full(len(query.passage_rows), np.nan)
        lowest = np.nan
        for group in self._groups_of(query):
            start, stop = self._starts[group], self._starts[group + 1]
            rows = self._rows[start:stop]
            at = np.searchsorted(rows, query.passage_rows)
            has = (
                (at < len(rows)) & (rows[np.minimum(at, len(rows) - 1)] == query.passage_rows) if len(rows) else at < 0
            )
            has &= np.isnan(scores)
            scores[has] = self._scores[start:stop][at[has]]
            lowest = float(np.fmin(lowest, self._lowest[group]))
        return scores, lowest

    def _groups_of(self, query: CandidateQuery) -> list[int]:
        text = same_text(query.text)
        groups = []
        if (own := self._group_of_id.get(query.query_id)) is not None and self._text[own] in (None, text):
            groups.append(own)
        return groups + [group for group in self._groups_of_text.get(text, ()) if group not in groups]

    def _group(self, score: GivenScore, line: int, of_text_alone: dict[str, int]) -> int:
        """The group of a score; a new one for an id, or a text, that was not named before."""
        query_id, text = score.query_id, score.query
        known, key = (of_text_alone, text) if query_id is None else (self._group_of_id, query_id)
        assert key is not None, "a line has an id or a text"
        group = known.setdefault(key, len(self._text))
        if group == len(self._text):
            self._text.append(None)
            self._line_of_text.append(line)
        if text is not None and self._text[group] is None:
            self._text[group], self._line_of_text[group] = text, line
            self._groups_of_text.setdefault(text, []).append(group)
        elif text is not None and self._text[group] != text:
            raise InputError(
                f"{self._places.place(line)}: query '{query_id}' had another text in "
                f"{self._places.place(self._line_of_text[group], line)}. Give every query an id of its own."
            )
        return group

    def _arrange(self, groups: np.ndarray, rows: np.ndarray, scores: np.ndarray, lines: np.ndarray) -> None:
        """Sorts (n,) scores by group and row, and refuses those that stand there twice."""
        count = len(self._text)
        self._lowest = np.full(count, np.inf)
        np.minimum.at(self._lowest, groups, scores)
        keep = np.flatnonzero(rows >= 0)
        groups, rows, scores, lines = groups[keep], rows[keep], scores[keep], lines[keep]
        order = np.lexsort((lines, rows, groups))
        twice = _twice(groups, rows, order)
        self._refuse(twice, order, lines, "a score of the same query and passage")
        numbers = {text: number for number, text in enumerate(self._groups_of_text)}
        texts = np.array([-1 if text is None else numbers[text] for text in self._text], np.int64)[groups]
        named = np.flatnonzero(texts >= 0)
        by_text = named[np.lexsort((lines[named], rows[named], texts[named]))]
        twice = _twice(texts, rows, by_text)
        twice &= scores[by_text[1:]] != scores[by_text[:-1]]
        self._refuse(twice, by_text, lines, "another score of a query with the same text, and the passage,")
        self._rows, self._scores = rows[order], scores[order]
        self._starts = np.searchsorted(groups[order], np.arange(count + 1))

    def _refuse(self, twice: np.ndarray, order: np.ndarray, lines: np.ndarray, what: str) -> None:
        if twice.any():
            first = int(np.flatnonzero(twice)[0])
            earlier, later = sorted((int(lines[order[first]]), int(lines[order[first + 1]])))
            raise InputError(
                f"{self._places.place(later)}: {what} stands in {self._places.place(earlier, later)} already. Keep the "
                f"one that counts; {int(twice.sum())} scores are given twice."
            )


def _twice(first: np.ndarray, second: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(n - 1,) whether an element and the next one, in an order, agree in both arrays."""
    return np.asarray(np.all([one[order[1:]] == one[order[:-1]] for one in (first, second)], axis=0))


class GivenTeacher:
    """Teacher that looks scores up.

    Args:
        scores: of a file.
        fill: give a candidate without a score the lowest one of its query, where it has any.
    """

    def __init__(self, scores: GivenScores, fill: bool) -> None:
        self.scores = scores
        self.fill = fill
        self._filled = 0

    def score(self, queries: Sequence[CandidateQuery]) -> Scored:
        """Scores candidates as `Teacher.score` says. No model reads tokens, so the count is 0."""
        found = []
        for query in queries:
            scores, lowest = self.scores.scores_of(query)
            if self.fill and np.isfinite(lowest):
                lacking = np.isnan(scores)
                scores[lacking] = lowest
                self._filled += int(lacking.sum())
            found.append(scores.astype(np.float32))
        return Scored(found, 0)

    def take_filled(self) -> int:
        """Candidates since the last call that got the lowest score of their query, because the file has none."""
        filled, self._filled = self._filled, 0
        return filled


def _rows_of(given: pa.ChunkedArray, passage_ids: pa.ChunkedArray) -> np.ndarray:
    """(n,) int64 row in PASSAGES of n given ids, -1 for an unknown one.

    The hash table is that of the given ids, since a corpus may have many more.
    """
    coded = given.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    number = pc.index_in(passage_ids, value_set=coded.dictionary)
    row_of_number = np.full(len(coded.dictionary), -1, np.int64)
    known = np.flatnonzero(number.is_valid().to_numpy())
    row_of_number[number.drop_null().to_numpy()] = known
    return row_of_number[coded.indices.to_numpy()]
