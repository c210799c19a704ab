"""Rerankers that are one transformer with a classifier behind it: tokenised, sorted, batched and computed here.

Sentence-transformers sorts pairs by their characters and fills batches of so many pairs. Here pairs are sorted by
their tokens over the whole call, and a batch holds so many tokens, so little is padding. `docs/compute.md` says what
that and the computing gain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from distill.encoders.compute.choose import alone, choose_layers
from distill.encoders.device import resolve_dtype, tokens_of_pass
from distill.encoders.tokens import PADDED_TO
from distill.settings.teachers import TeacherSettings
from distill.teachers.batches import Batches
from distill.teachers.pair_module import PairModule
from distill.teachers.pair_tokens import PairIds, PairTokenizer
from distill.teachers.prompt_scorer import PromptScorer

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class PairReader(PromptScorer):
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
        prompt = PairTokenizer(model.tokenizer, longest)
        tokens = tokens_of_pass(settings.batch_size * settings.max_tokens, device)
        multiple = 1 if device == "cpu" else PADDED_TO  # kernels of GPUs are cached by shape
        super().__init__(prompt, Batches(tokens, longest, device, model.tokenizer.pad_token_id, multiple))
        self._has_types = prompt.has_types
        self._chosen = False  # the first batch decides how the module computes

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

    def compute(self, ids: torch.Tensor, mask: torch.Tensor, pairs: list[PairIds]) -> np.ndarray:
        """(B,) float32 scores, as `PromptScorer.compute` says: the logit, or the log-odds of the second label."""
        self._choose(pairs)
        logits = self.module.logits(**self._features(ids, mask, pairs))
        scores = logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]
        return scores.cpu().numpy()

    def _features(self, ids: torch.Tensor, mask: torch.Tensor, pairs: list[PairIds]) -> dict[str, Any]:
        features = {"input_ids": ids, "attention_mask": mask}
        if self._has_types:
            firsts = torch.tensor([pair.first for pair in pairs], device=ids.device)
            columns = torch.arange(ids.shape[1], device=ids.device)
            features["token_type_ids"] = (columns >= firsts[:, None]).long() * mask
        return features

    def _choose(self, pairs: list[PairIds]) -> None:
        """Chooses how the module computes, by the longest, the median and the shortest pair of the first batch."""
        if self._chosen:
            return
        order = sorted(pairs, key=lambda pair: len(pair.ids))
        tried = [order[-1], order[len(order) // 2], order[0]]
        ids, mask = self.batches.filled([pair.ids for pair in tried])
        if self.module.dtype == torch.bfloat16:
            choose_layers(self.module, self._features(ids, mask, tried), agree=alone)
        self._chosen = True
