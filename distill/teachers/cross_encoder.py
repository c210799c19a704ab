"""A cross-encoder as a teacher: a model that reads query and passage together and scores the pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.errors import InputError
from cluster.tables.row_reader import RowReader
from distill.encoders.device import default_device, resolve_dtype
from distill.encoders.loading import load_safetensors
from distill.encoders.texts import passage_text
from distill.encoders.tokens import CHARACTERS_PER_TOKEN
from distill.settings import TeacherSettings
from distill.teachers.base import CandidateQuery

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class CrossEncoderTeacher:
    """Teacher that scores with a reranker: any sequence-classification model that sentence-transformers can load.

    The score of a model with one label is its logit. With two labels it is the log-odds of the second label, which
    means relevant.

    Args:
        settings: the model, its maximum length and its batch size.
        texts: columns title and text of PASSAGES.
        device: "cpu" or "cuda"; None takes a GPU if the process has one.

    Raises:
        InputError: the model cannot be loaded, or has more than two labels.
    """

    def __init__(self, settings: TeacherSettings, texts: RowReader, device: str | None = None) -> None:
        from distill.encoders.token_counter import TokenCounter

        self.settings = settings
        self.texts = texts
        self.device = device or default_device()
        self.model = load_cross_encoder(settings, self.device)
        self.tokens = TokenCounter(self.model[0])
        self.batch_size = settings.batch_size

    def score(self, queries: Sequence[CandidateQuery]) -> tuple[list[np.ndarray], int]:
        """Scores candidates as `Teacher.score` says.

        A batch that runs out of memory is halved. Later shards begin with the halved size.

        Raises:
            RuntimeError: one pair alone runs out of memory.
        """
        rows = np.concatenate([query.passage_rows for query in queries]) if queries else np.empty(0, np.int64)
        if not len(rows):
            return [np.empty(0, np.float32) for _ in queries], 0
        unique, positions = np.unique(rows, return_inverse=True)
        columns = self.texts.take(unique)
        # A tokenizer reads a whole text before it truncates, so texts are cut beforehand.
        longest = CHARACTERS_PER_TOKEN * self.settings.max_tokens
        titles, texts = columns.column("title").to_pylist(), columns.column("text").to_pylist()
        passages = [passage_text(title, text[:longest]) for title, text in zip(titles, texts, strict=True)]
        query_texts = [query.text[:longest] for query in queries for _ in query.passage_rows]
        pairs = [(text, passages[position]) for text, position in zip(query_texts, positions.tolist(), strict=True)]
        scores = self._predict(pairs)
        cuts = np.cumsum([len(query.passage_rows) for query in queries])[:-1]
        return np.split(scores, cuts), self.tokens.take()

    def _predict(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        """(n,) float32 raw scores of n pairs.

        `predict` starts with the longest pairs, so memory runs out in the first batch or never.
        """
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
        self.batch_size = size  # kept only after success: a pair too large for memory must not shrink later batches
        return logits[:, 1] - logits[:, 0] if logits.ndim == 2 else logits


def load_cross_encoder(settings: TeacherSettings, device: str) -> CrossEncoder:
    """Loads a reranker in its dtype; its last layer computes in float32, because bfloat16 scores would have ties.

    Raises:
        InputError: the model cannot be found, is not a reranker, has more than two labels, stores its weights in a
            pickle, or comes with code that the recipe does not trust.
    """
    import torch

    assert settings.model is not None, "checked by the recipe"

    def construct(path: str, model_kwargs: dict[str, Any]) -> CrossEncoder:
        from sentence_transformers import CrossEncoder

        return CrossEncoder(
            path, device=device, trust_remote_code=settings.trust_remote_code, model_kwargs=model_kwargs
        )

    model = load_safetensors(
        construct,
        settings.model,
        resolve_dtype(settings.dtype, device),
        role="teacher model",
        expected="a sequence-classification model: a folder with safetensors weights, or an id that the hub or its "
        "local cache has",
    )
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
