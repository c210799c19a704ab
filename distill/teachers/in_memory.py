"""Teachers score given queries and passages in this process, without a run: for a look before hours are spent.

The one place that says how each kind of teacher does that is `score_pairs`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from cluster.errors import InputError
from distill.encoders.encoder import Encoder
from distill.encoders.texts import passage_text
from distill.retrieval.bm25 import Bm25Index
from distill.retrieval.embeddings import identity
from distill.settings.encoders import EncoderSettings
from distill.settings.teachers import TeacherSettings
from distill.teachers.base import CandidateQuery, Scored, Teacher
from distill.teachers.bm25 import Bm25Teacher
from distill.teachers.load import load_scorer
from distill.teachers.pairs import PairScorer, close, score_unique

QUERIES_AT_ONCE = 8  # between two updates of the progress bar


@dataclass(frozen=True)
class Collection:
    """The P passages of a collection, and what has been made of them for the search of candidates.

    Attributes:
        titles, texts: the passages.
        index: BM25 over all of them.
        encoder: the student's base, which is also the encoder of a bi-encoder teacher that names none.
        queries, passages: `(Q, d)` and `(P, d) float32` vectors by this encoder.
    """

    titles: list[str]
    texts: list[str]
    index: Bm25Index
    encoder: EncoderSettings
    queries: np.ndarray
    passages: np.ndarray


@dataclass(frozen=True)
class PairScores:
    """Scores of one teacher, `(C,) float32` for each query, and the seconds that they took, without loading."""

    scores: list[np.ndarray]
    seconds: float


def score_pairs(
    name: str,
    teacher: TeacherSettings,
    queries: Sequence[str],
    candidates: Sequence[np.ndarray],
    collection: Collection,
    advance: Callable[[int], None],
) -> PairScores:
    """Scores the candidates of every query by one teacher.

    Args:
        name: the teacher's name in the recipe, for messages.
        teacher: its settings.
        queries: the Q queries, in the order of `collection.queries`.
        candidates: `(C,) int64` rows of each query's candidates in the collection.
        collection: the passages.
        advance: gets the number of queries that have been scored since the last call.

    Raises:
        InputError: the model cannot be loaded, or a score is not finite.
    """
    with _open(teacher, queries, candidates, collection) as opened:
        begun, scores = time.monotonic(), list[np.ndarray]()
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            part = range(start, min(start + QUERIES_AT_ONCE, len(queries)))
            rows = [CandidateQuery(number, str(number), queries[number], candidates[number]) for number in part]
            scores += opened.score(rows)[0]
            advance(len(part))
        seconds = time.monotonic() - begun
    if bad := sum(not np.isfinite(of_query).all() for of_query in scores):
        raise InputError(
            f"teacher '{name}' gave scores that are not finite for {bad} of {len(queries)} queries; a run would reject "
            "such queries. Try dtype: float32, or use another teacher."
        )
    return PairScores(scores, seconds)


@contextmanager
def _open(
    teacher: TeacherSettings, queries: Sequence[str], candidates: Sequence[np.ndarray], collection: Collection
) -> Iterator[Teacher]:
    """The teacher of these settings, ready to score."""
    if teacher.kind == "bm25":
        yield Bm25Teacher(collection.index)  # reads texts as the index does
    elif teacher.kind == "bi_encoder":
        encoder = teacher.encoder or collection.encoder
        if identity(encoder) == identity(collection.encoder):
            yield _Vectors(collection.queries, collection.passages)
        else:
            yield _EncodedLater(Encoder(encoder), collection)
    else:
        scorer = load_scorer(teacher)
        try:
            yield _Pairs(scorer, collection)
        finally:
            close(scorer)


class _Pairs:
    """A model that reads query and passage."""

    def __init__(self, scorer: PairScorer, collection: Collection) -> None:
        self._scorer, self._collection = scorer, collection

    def score(self, queries: Sequence[CandidateQuery]) -> Scored:
        """Scores candidates as `Teacher.score` says."""
        titles, texts = self._collection.titles, self._collection.texts
        pairs = [
            (query.text, passage_text(titles[row], texts[row]))
            for query in queries
            for row in query.passage_rows.tolist()
        ]
        cuts = np.cumsum([len(query.passage_rows) for query in queries])[:-1]
        return Scored(np.split(score_unique(self._scorer.score, pairs), cuts), self._scorer.take_tokens())


class _Vectors:
    """Inner products of vectors that are there."""

    def __init__(self, queries: np.ndarray, passages: np.ndarray) -> None:
        self._queries, self._passages = queries, passages

    def score(self, queries: Sequence[CandidateQuery]) -> Scored:
        """Scores candidates as `Teacher.score` says; `CandidateQuery.row` is the row of the query's vector."""
        return Scored([self._passages[query.passage_rows] @ self._queries[query.row] for query in queries], 0)


class _EncodedLater:
    """Inner products of vectors by another encoder; a passage is encoded when a query first has it."""

    def __init__(self, encoder: Encoder, collection: Collection) -> None:
        self._encoder, self._collection = encoder, collection
        self._passages = np.zeros((len(collection.texts), encoder.dimension), dtype=np.float32)
        self._is_encoded = np.zeros(len(collection.texts), dtype=bool)

    def score(self, queries: Sequence[CandidateQuery]) -> Scored:
        """Scores candidates as `Teacher.score` says."""
        rows = np.unique(np.concatenate([query.passage_rows for query in queries]))
        rows = rows[~self._is_encoded[rows]]
        texts, titles = ([column[row] for row in rows] for column in (self._collection.texts, self._collection.titles))
        self._passages[rows] = self._encoder.encode_passages(titles, texts)
        self._is_encoded[rows] = True
        vectors = self._encoder.encode_queries([query.text for query in queries])
        scores = [self._passages[query.passage_rows] @ own for query, own in zip(queries, vectors, strict=True)]
        return Scored(scores, 0)
