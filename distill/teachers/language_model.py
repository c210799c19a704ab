"""Language models as teachers, computed by transformers: causal models, T5, and the likelihood of a query.

A causal model reads a pair in a template and is asked for its next token: the score is the logit of the token that
means relevant, less that of the one that means irrelevant. A T5 is asked for the first token of its answer. The
likelihood of a query is the mean log-probability of its tokens after the passage.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cluster.errors import InputError
from distill.encoders.device import default_device, resolve_dtype
from distill.encoders.loading import load_safetensors
from distill.settings.teachers import TeacherSettings
from distill.teachers.batches import Batches
from distill.teachers.head import put_head, token_id
from distill.teachers.prompt import PairPrompt, PairTokens
from distill.teachers.prompt_scorer import PromptScorer
from distill.teachers.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LanguageModelScorer(PromptScorer):
    """Scorer with a language model of transformers.

    Args:
        settings: kind, model, lengths.
        template: how the model reads a pair.
        device: "cpu" or "cuda"; None takes a GPU if the process has one.

    Raises:
        InputError: the model cannot be loaded, is of another kind, or lacks a token of the template.
    """

    def __init__(self, settings: TeacherSettings, template: Template, device: str | None = None) -> None:
        self.template = template
        device = device or default_device()
        self.model, tokenizer = load_language_model(settings, device)
        longest = min(settings.max_tokens, longest_input(self.model.config))
        self._head = put_head(self.model, score_tokens(template, tokenizer))
        batches = Batches(settings.batch_size * settings.max_tokens, longest, device)
        super().__init__(PairPrompt(template, tokenizer, longest), batches)

    def compute(self, ids: torch.Tensor, mask: torch.Tensor, pairs: list[PairTokens]) -> np.ndarray:
        """(B,) float32 scores, as `PromptScorer.compute` says."""
        return (
            self._likelihoods(ids, mask, pairs)
            if self.template.kind == "query_likelihood"
            else self._answers(ids, mask)
        )

    def _answers(self, ids: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
        """(B,) scores from the logits of the next token."""
        rows = torch.arange(len(ids), device=ids.device)
        if self.template.kind == "seq2seq":
            start = self.model.config.decoder_start_token_id
            self._head.rows, self._head.columns = rows, torch.zeros_like(rows)
            begun = torch.full((len(ids), 1), 0 if start is None else start, device=ids.device)
            logits = self.model(input_ids=ids, attention_mask=mask, decoder_input_ids=begun, use_cache=False).logits[0]
        else:
            self._head.rows, self._head.columns = rows, mask.sum(dim=1) - 1
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0]
        if self.template.score == "log_softmax":
            scores = torch.nn.functional.log_softmax(logits, dim=1)[:, 0]
        else:
            scores = logits[:, 0] - logits[:, 1] if self.template.false_token else logits[:, 0]
        return scores.float().cpu().numpy()

    def _likelihoods(self, ids: torch.Tensor, mask: torch.Tensor, pairs: list[PairTokens]) -> np.ndarray:
        """(B,) mean log-probabilities of the tokens of the last piece, the query."""
        counts = torch.tensor([one.last for one in pairs], device=ids.device)
        lengths = mask.sum(dim=1)
        rows = torch.repeat_interleave(torch.arange(len(ids), device=ids.device), counts)
        offsets = torch.cat([torch.arange(count, device=ids.device) for count in counts.tolist()])
        columns = (lengths - counts)[rows] + offsets
        self._head.rows, self._head.columns = rows, columns - 1  # a token is foretold where the one before it stands
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0]
        chosen = torch.log_softmax(logits.float(), dim=1).gather(1, ids[rows, columns][:, None])[:, 0]
        sums = torch.zeros(len(ids), device=ids.device).index_add_(0, rows, chosen)
        return (sums / counts).cpu().numpy()


def score_tokens(template: Template, tokenizer: Any) -> list[int] | None:
    """Ids of the template's true_token and false_token; None for a likelihood, which needs all tokens."""
    if template.kind == "query_likelihood":
        return None
    named = [("true_token", template.true_token), ("false_token", template.false_token)]
    return [token_id(tokenizer, token, field) for field, token in named if token is not None]


def load_language_model(settings: TeacherSettings, device: str) -> tuple[PreTrainedModel, Any]:
    """Loads model and tokenizer of a teacher.

    Raises:
        InputError: they cannot be loaded, the model is of another kind, or its weights are a pickle.
    """
    assert settings.model is not None, "checked by the recipe"

    def construct(path: str, model_kwargs: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        where = {"revision": settings.revision or "main", "trust_remote_code": settings.trust_remote_code}
        config = AutoConfig.from_pretrained(path, **where)
        refuse_other_kind(settings, config)
        kind = AutoModelForSeq2SeqLM if settings.kind == "seq2seq" else AutoModelForCausalLM
        return kind.from_pretrained(path, **model_kwargs, **where), AutoTokenizer.from_pretrained(path, **where)

    model, tokenizer = load_safetensors(
        construct,
        settings.model,
        settings.revision,
        resolve_dtype(settings.dtype, device),
        role="teacher model",
        expected="a language model: a folder with safetensors weights, or an id that the hub or its local cache has",
        output=lambda loaded: next_logits(loaded[0]),
    )
    model.to(device)  # type: ignore[arg-type]
    return model.eval(), tokenizer


def next_logits(model: PreTrainedModel) -> torch.Tensor:
    """Logits after one token, with gradients; of an encoder-decoder, at the first step of its decoder."""
    ids = torch.ones(1, 1, dtype=torch.long, device=model.device)
    decoder = {"decoder_input_ids": ids} if getattr(model.config, "is_encoder_decoder", False) else {}
    return model(input_ids=ids, **decoder).logits


def longest_input(config: Any) -> int:
    """Most tokens that a model takes, by its configuration; without a limit there, as many as one likes."""
    return int(getattr(config, "max_position_embeddings", None) or sys.maxsize)


def refuse_other_kind(settings: TeacherSettings, config: Any) -> None:
    """Refuses a model whose architecture is not of the teacher's kind; `config` is transformers' configuration of it.

    Raises:
        InputError: it names the kind that fits.
    """
    names = list(config.architectures or [])
    if getattr(config, "is_encoder_decoder", False):
        fits = "seq2seq"
    elif any(name.endswith("ForSequenceClassification") for name in names):
        fits = "cross_encoder"
    elif any(name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for name in names):
        fits = "causal"
    else:
        return
    wanted = "causal" if settings.kind == "query_likelihood" else settings.kind
    if fits != wanted:
        raise InputError(
            f"teacher model '{settings.model}' is {' and '.join(names)}, which is no model for kind {settings.kind}. "
            f"Set `kind: {fits}`."
        )
