"""Rerankers with modules, prompts or chat templates of their own, computed by sentence-transformers' `predict`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from distill.encoders.halving import halved_until_it_fits
from distill.encoders.token_counter import TokenCounter
from distill.encoders.tokens import CHARACTERS_PER_TOKEN
from distill.settings.teachers import TeacherSettings
from distill.teachers.pairs import Pair

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

_CUT_PASSAGES = {"text": {"truncation": "only_second"}}


class PredictReader:
    """Scores pairs with `CrossEncoder.predict`, as the authors of the model wrote it.

    Args:
        model: the reranker, with its maximum length.
        settings: maximum length and batch size.
    """

    def __init__(self, model: CrossEncoder, settings: TeacherSettings) -> None:
        self.model = model
        self.settings = settings
        self.tokens = TokenCounter(model[0])
        self.batch_size = settings.batch_size

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        """(n,) float32 raw scores, as `PairScorer.score` says.

        Raises:
            RuntimeError: one pair alone runs out of memory.
        """
        scores = np.full(len(pairs), np.nan, np.float32)
        # A tokenizer reads a whole text before it truncates, so texts are cut beforehand.
        longest = CHARACTERS_PER_TOKEN * self.settings.max_tokens
        numbers = self._with_room(pairs)
        if numbers:
            scores[numbers] = self._predict([(pairs[number][0], pairs[number][1][:longest]) for number in numbers])
        return scores

    def shown(self, pair: Pair) -> str:
        """What the model reads of a pair."""
        features = self.model.preprocess([pair])
        return str(self.model.tokenizer.decode(features["input_ids"][0]))

    def take_tokens(self) -> int:
        """Tokens that the model has read since the last call."""
        return self.tokens.take()

    def _with_room(self, pairs: Sequence[Pair]) -> list[int]:
        """Numbers of the pairs whose query leaves room for at least one token of a passage."""
        tokenizer, most = self.model.tokenizer, int(self.model.max_length)
        queries = list(dict.fromkeys(query for query, _ in pairs))
        special = tokenizer.num_special_tokens_to_add(pair=True)
        lengths = map(len, tokenizer(queries, add_special_tokens=False)["input_ids"]) if queries else ()
        short = {query for query, length in zip(queries, lengths, strict=True) if length + special < most}
        return [number for number, (query, _) in enumerate(pairs) if query in short]

    def _predict(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        """(n,) float32 raw scores of n pairs.

        `predict` starts with the longest pairs, so memory runs out in the first batch or never.
        """
        import torch

        def attempt(batch_size: int) -> np.ndarray:
            self.tokens.take()
            return self.model.predict(
                pairs,
                batch_size=batch_size,
                activation_fn=torch.nn.Identity(),
                show_progress_bar=False,
                processing_kwargs=_CUT_PASSAGES,
            )

        # the size is kept only after success: a pair too large for memory must not shrink later batches
        found, self.batch_size = halved_until_it_fits(attempt, self.batch_size)
        logits = np.asarray(found, dtype=np.float32)
        return logits[:, 1] - logits[:, 0] if logits.ndim == 2 else logits
