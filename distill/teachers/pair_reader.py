"""Rerankers that are one transformer with a classifier behind it: tokenised, sorted, batched and computed here.

Sentence-transformers sorts pairs by their characters and fills batches of so many pairs. Here pairs are sorted by
their tokens over the whole call, and a batch holds so many tokens, so little is padding. `docs/compute.md` says what
that and the computing gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from distill.encoders.compute.choose import choose_layers
from distill.encoders.device import resolve_dtype, tokens_of_pass
from distill.encoders.tokens import PADDED_TO
from distill.settings.teachers import TeacherSettings
from distill.teachers.batches import Batches
from distill.teachers.pair_module import PairModule
from distill.teachers.pair_tokens import PairIds, PairTokenizer
from distill.teachers.pairs import Pair

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class PairReader:
    """Scores pairs with a sequence-classification model of transformers.

    Args:
        model: the reranker, on its device and with its maximum length; it keeps the transformer and the tokenizer.
        settings: batch size and dtype.
        device: "cpu" or "cuda".
    """

    def __init__(self, model: CrossEncoder, settings: TeacherSettings, device: str) -> None:
        longest = int(model.max_length)
        assert model.model is not None, "`fits` says so"
        dtype = resolve_dtype(settings.dtype, device)
        self.module = PairModule(model.model, device, dtype)
        self.prompt = PairTokenizer(model.tokenizer, longest)
        tokens = tokens_of_pass(settings.batch_size * settings.max_tokens, device, dtype)
        multiple = 1 if device == "cpu" else PADDED_TO  # kernels of GPUs are cached by shape
        self.batches = Batches(tokens, longest, device, model.tokenizer.pad_token_id, multiple)
        self._chosen = False  # the first pairs decide how the module computes

    @staticmethod
    def fits(model: CrossEncoder) -> bool:
        """Whether a reranker is one transformer with a classifier, which reads bare pairs."""
        first: Any = model[0]
        return (
            len(model) == 1
            and getattr(first, "transformer_task", "") == "sequence-classification"
            and "message" not in first.modality_config
            and not getattr(first, "processing_kwargs", None)
            and not any(model.prompts.values())
            and model.model is not None
            and model.model.base_model is not model.model
            and PairTokenizer.fits(model.tokenizer)
        )

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        """(n,) float32 raw scores, as `PairScorer.score` says.

        Raises:
            RuntimeError: one pair alone runs out of memory.
        """
        scores = np.full(len(pairs), np.nan, np.float32)
        tokens = {number: one for number, one in enumerate(self.prompt.tokens(pairs)) if one is not None}
        numbers, rows = list(tokens), list(tokens.values())
        if rows:
            self._choose(rows)
            scores[numbers] = self.batches.run(
                [one.ids for one in rows], lambda ids, mask, of: self._scores(ids, mask, [rows[one] for one in of])
            )
        return scores

    def shown(self, pair: Pair) -> str:
        """What the model reads of a pair."""
        (tokens,) = self.prompt.tokens([pair])
        return "(nothing: no room)" if tokens is None else str(self.prompt.tokenizer.decode(tokens.ids))

    def take_tokens(self) -> int:
        """Tokens that the model has read since the last call."""
        tokens, self.batches.read, self.batches.padded = self.batches.read, 0, 0
        return tokens

    def _scores(self, ids: torch.Tensor, mask: torch.Tensor, pairs: list[PairIds]) -> np.ndarray:
        """(B,) scores of a batch: the logit, or the log-odds of the second label."""
        logits = self.module.logits(**self._features(ids, mask, pairs))
        scores = logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]
        return scores.cpu().numpy()

    def _features(self, ids: torch.Tensor, mask: torch.Tensor, pairs: list[PairIds]) -> dict[str, Any]:
        features = {"input_ids": ids, "attention_mask": mask}
        if self.prompt.has_types:
            firsts = torch.tensor([pair.first for pair in pairs], device=ids.device)
            columns = torch.arange(ids.shape[1], device=ids.device)
            features["token_type_ids"] = (columns >= firsts[:, None]).long() * mask
        return features

    def _choose(self, pairs: list[PairIds]) -> None:
        """Chooses how the module computes, by the longest, the median and the shortest of the first pairs."""
        if self._chosen:
            return
        order = sorted(pairs, key=lambda pair: len(pair.ids))
        tried = [order[-1], order[len(order) // 2], order[0]]
        ids, mask = self.batches.filled([pair.ids for pair in tried])
        if self.module.dtype == torch.bfloat16:
            choose_layers(self.module, self._features(ids, mask, tried))
        self._chosen = True
