"""A cross-encoder as a teacher: one forward pass for each pair of query and passage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.errors import InputError
from cluster.tables.row_reader import RowReader
from distill.encoders.device import default_device, resolve_dtype
from distill.encoders.loading import load_safetensors
from distill.encoders.texts import passage_text
from distill.settings import TeacherSettings
from distill.teachers.base import Question

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class CrossEncoderTeacher:
    """Any sequence-classification reranker that sentence-transformers or transformers can load.

    One label: its logit. Two labels: the log-odds of the second, relevant one.

    Args:
        settings: the model, its length and its batch.
        texts: PASSAGES with columns title and text.
        device: "cpu" or "cuda"; chosen when empty.
    """

    def __init__(self, settings: TeacherSettings, texts: RowReader, device: str | None = None) -> None:
        from distill.encoders.token_counter import TokenCounter

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
