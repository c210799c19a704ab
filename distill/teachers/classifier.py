"""Causal models with a classification head as teachers: rerankers whose output layer was cut down to one score."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cluster.errors import InputError
from distill.encoders.device import default_device, resolve_dtype
from distill.encoders.loading import load_safetensors
from distill.settings.teachers import TeacherSettings
from distill.teachers.batches import Batches
from distill.teachers.language_model import longest_input, next_logits, refuse_other_kind
from distill.teachers.prompt import PairPrompt, PairTokens
from distill.teachers.prompt_scorer import PromptScorer
from distill.teachers.template import Template


class ClassifierScorer(PromptScorer):
    """Scorer with a causal sequence-classification model that reads pairs in a template.

    The head computes in float32 on the last hidden state, `(H,)`. With two labels the score is the log-odds of the
    second.

    Args:
        settings: model and lengths.
        template: how the model reads a pair.
        device: "cpu" or "cuda"; None takes a GPU if the process has one.

    Raises:
        InputError: the model cannot be loaded, is no such model, or has more than two labels.
    """

    def __init__(self, settings: TeacherSettings, template: Template, device: str | None = None) -> None:
        device = device or default_device()
        self.body, self.head, tokenizer = _load(settings, device)
        longest = min(settings.max_tokens, longest_input(self.body.config))
        batches = Batches(settings.batch_size * settings.max_tokens, longest, device)
        super().__init__(PairPrompt(template, tokenizer, longest), batches)

    def compute(self, ids: torch.Tensor, mask: torch.Tensor, pairs: list[PairTokens]) -> np.ndarray:
        """(B,) float32 scores, as `PromptScorer.compute` says."""
        hidden_BTH = self.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        last = hidden_BTH[torch.arange(len(ids), device=ids.device), mask.sum(dim=1) - 1]
        logits = self.head(last.float())
        return (logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]).cpu().numpy()


def _load(settings: TeacherSettings, device: str) -> tuple[Any, torch.nn.Module, Any]:
    def construct(path: str, model_kwargs: dict[str, Any]) -> tuple[Any, Any]:
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        where = {"revision": settings.revision or "main", "trust_remote_code": settings.trust_remote_code}
        config = AutoConfig.from_pretrained(path, **where)
        refuse_other_kind(settings, config)
        model = AutoModelForSequenceClassification.from_pretrained(path, **model_kwargs, **where)
        return model, AutoTokenizer.from_pretrained(path, **where)

    model, tokenizer = load_safetensors(
        construct,
        str(settings.model),
        settings.revision,
        resolve_dtype(settings.dtype, device),
        role="teacher model",
        expected="a sequence-classification model: a folder with safetensors weights, or an id that the hub or its "
        "local cache has",
        output=lambda loaded: next_logits(loaded[0]),
    )
    if not isinstance(getattr(model, "score", None), torch.nn.Linear):
        raise InputError(
            f"teacher model '{settings.model}' is no causal model with a classification head, so it reads no template. "
            "Leave `template` out; it then reads query and passage as a pair."
        )
    if model.num_labels > 2:
        raise InputError(
            f"teacher model '{settings.model}' has {model.num_labels} labels; "
            "a reranker has one (a relevance score) or two (irrelevant, relevant)."
        )
    return model.base_model.to(device).eval(), model.score.to(device).float(), tokenizer
