"""Teachers: slow models that judge how well passages answer a query. Each takes queries with their candidates' rows.

All of them give raw scores; what the numbers mean is put on one scale when lists are made (`distill/lists/build.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cluster.errors import InputError
from cluster.machines.garbage_collector import collector_at_rest
from cluster.tables.row_reader import Lineage, RowReader, rows_of_vectors, vectors_of
from distill.encoders.encoder import advice_on_code, default_device, passage_text, resolve_dtype, resolve_model
from distill.retrieval.bm25 import Bm25Index
from distill.settings import TeacherSettings

if TYPE_CHECKING:
    import pyarrow as pa
    from sentence_transformers import CrossEncoder

    from cluster.tables.table import Table


@dataclass(frozen=True)
class Question:
    """A query with its C candidates: `rows` (C,) int64 of PASSAGES; `number` is its row in CANDIDATES."""

    number: int
    query_id: str
    text: str
    rows: np.ndarray


class Teacher(Protocol):
    """Scores candidates."""

    def score(self, questions: Sequence[Question]) -> tuple[list[np.ndarray], int]:
        """One `(C,) float32` array per query, NaN where there is no score; and the tokens that were read."""
        ...


class Bm25Teacher:
    """BM25 with the statistics of the whole corpus."""

    def __init__(self, index: Bm25Index) -> None:
        self.index = index

    def score(self, questions: Sequence[Question]) -> tuple[list[np.ndarray], int]:
        """See `Teacher`; BM25 reads no tokens of a model."""
        return [self.index.score(question.text, question.rows) for question in questions], 0


class BiEncoderTeacher:
    """Inner products of vectors that an encoder has made already.

    Args:
        passages: PASSAGE_VECTORS of the encoder.
        passage_ids: ids of PASSAGES; vectors follow their order, without the passages that were rejected.
        queries: QUERY_VECTORS of the same encoder.
        candidates: CANDIDATES, if `queries` holds the queries that the candidates were made of; None if it was made
            of the candidates themselves, row by row.
    """

    def __init__(self, passages: Table, passage_ids: pa.ChunkedArray, queries: Table, candidates: Table | None) -> None:
        self._passages = RowReader(passages, ["id", "vector"])
        self._queries = RowReader(queries, ["id", "vector"], budget_bytes=64 << 20)
        self._to_query_vectors = Lineage(queries)
        self._to_queries = Lineage(candidates) if candidates else None
        self._vector_row: np.ndarray | None = None
        if (rows := rows_of_vectors(passages, passage_ids)) is not None:
            self._vector_row = np.full(len(passage_ids), -1, dtype=np.int64)
            self._vector_row[rows] = np.arange(len(rows))

    def score(self, questions: Sequence[Question]) -> tuple[list[np.ndarray], int]:
        """See `Teacher`; the tokens were counted when the vectors were made."""
        if not questions:
            return [], 0
        start, stop = questions[0].number, questions[-1].number + 1
        if self._to_queries is not None:
            start, stop = self._to_queries.inputs(start, stop)
        made = self._queries.range(*self._to_query_vectors.outputs(start, stop))
        queries = vectors_of(made.column("vector"))
        at = {query_id: position for position, query_id in enumerate(made.column("id").to_pylist())}

        wanted = np.unique(np.concatenate([question.rows for question in questions]))
        held = wanted if self._vector_row is None else self._vector_row[wanted]
        vectors = vectors_of(self._passages.take(held[held >= 0]).column("vector"))
        place = np.full(len(wanted), -1, dtype=np.int64)
        place[held >= 0] = np.arange(len(vectors))

        scores = []
        for question in questions:
            where = place[np.searchsorted(wanted, question.rows)]
            result = np.full(len(question.rows), np.nan, dtype=np.float32)
            if question.query_id in at:
                result[where >= 0] = vectors[where[where >= 0]] @ queries[at[question.query_id]]
            scores.append(result)
        return scores, 0


class CrossEncoderTeacher:
    """Any sequence-classification reranker that sentence-transformers or transformers can load.

    One label: its logit. Two labels: the log-odds of the second, relevant one.

    Args:
        settings: the model, its length and its batch.
        texts: PASSAGES with columns title and text.
        device: "cpu" or "cuda"; chosen when empty.
    """

    def __init__(self, settings: TeacherSettings, texts: RowReader, device: str | None = None) -> None:
        from distill.retrieval.embeddings import TokenCounter

        self.settings = settings
        self.texts = texts
        self.device = device or default_device()
        self.model = load_cross_encoder(settings, self.device)
        self.tokens = TokenCounter(self.model[0])
        self.batch_size = settings.batch_size

    def score(self, questions: Sequence[Question]) -> tuple[list[np.ndarray], int]:
        """See `Teacher`. A batch that runs out of memory is halved, and stays halved for the shards to come."""
        rows = np.concatenate([question.rows for question in questions]) if questions else np.empty(0, np.int64)
        if not len(rows):
            return [np.empty(0, np.float32) for _ in questions], 0
        wanted, where = np.unique(rows, return_inverse=True)
        texts = self.texts.take(wanted)
        # A tokenizer cuts only after it has read everything: no token is longer than this on average.
        longest = 16 * self.settings.max_tokens
        shown = [
            passage_text(title, text[:longest])
            for title, text in zip(texts.column("title").to_pylist(), texts.column("text").to_pylist(), strict=True)
        ]
        queries = [question.text[:longest] for question in questions for _ in question.rows]
        pairs = [(query, shown[position]) for query, position in zip(queries, where.tolist(), strict=True)]
        scores = self._predict(pairs)
        cuts = np.cumsum([len(question.rows) for question in questions])[:-1]
        return np.split(scores, cuts), self.tokens.take()

    def _predict(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        """(n,) float32 raw scores. `predict` starts with the longest pairs, so memory runs out at once or never."""
        import torch
        from accelerate.utils import find_executable_batch_size

        size = self.batch_size

        def halve() -> int:
            nonlocal size
            size //= 2
            return size

        @find_executable_batch_size(starting_batch_size=size, reduce_batch_size_fn=halve)
        def attempt(batch_size: int) -> np.ndarray:
            self.tokens.take()
            return self.model.predict(
                pairs, batch_size=batch_size, activation_fn=torch.nn.Identity(), show_progress_bar=False
            )

        logits = np.asarray(attempt(), dtype=np.float32)
        self.batch_size = size  # remembered only now: a pair that fits nowhere must not spoil the next shard
        return logits[:, 1] - logits[:, 0] if logits.ndim == 2 else logits


@collector_at_rest()
def load_cross_encoder(settings: TeacherSettings, device: str) -> CrossEncoder:
    """Loads a reranker in its dtype, its last layer computing in float32 so that bfloat16 makes no ties.

    Raises:
        InputError: the model cannot be found, is none, has more than two labels or its weights in a pickle, or brings
            code that the recipe does not trust.
    """
    import torch
    from huggingface_hub.utils import disable_progress_bars
    from sentence_transformers import CrossEncoder
    from transformers.utils import logging as transformers_logging

    assert settings.model is not None, "checked by the recipe"
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    try:
        model = CrossEncoder(
            resolve_model(settings.model),
            device=device,
            trust_remote_code=settings.trust_remote_code,
            model_kwargs={"dtype": resolve_dtype(settings.dtype, device), "use_safetensors": True},
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"teacher model '{settings.model}' cannot be loaded: {first} "
            "Expected a sequence-classification model: a folder with safetensors weights, or an id that the hub or its "
            f"local cache has.{advice_on_code(error)}"
        ) from error
    if model.num_labels > 2:
        raise InputError(
            f"teacher model '{settings.model}' has {model.num_labels} labels; "
            "a reranker has one (a relevance score) or two (irrelevant, relevant)."
        )
    model.max_length = min(settings.max_tokens, model.max_length or settings.max_tokens)
    heads = [
        name
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and module.out_features == model.num_labels
    ]
    if heads:
        model.set_keep_in_fp32_modules(heads[-1:])
    return model.eval()
