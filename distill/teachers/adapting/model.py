"""The cross-encoder that becomes a teacher: what it begins with, and the module that DeepSpeed trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cluster.errors import InputError
from distill.encoders.loading import load_safetensors
from distill.encoders.padding import give_padding
from distill.encoders.positions import most_tokens
from distill.settings.teachers import TeacherSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class PairModule(nn.Module):
    """A cross-encoder with float32 weights, under autocast to `dtype`.

    Attributes:
        model: the sequence classifier. Checkpoints name weights by this attribute: "model.…".

    Args:
        model: with one label, or with two: irrelevant and relevant.
        device: "cpu" or "cuda…".
        dtype: of the arithmetic.
    """

    def __init__(self, model: PreTrainedModel, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        nn.Module.to(model, device)
        self.device = device
        self.dtype = dtype

    def forward(self, **features: torch.Tensor) -> torch.Tensor:
        """(n,) float32 scores of n tokenised pairs, as `CrossEncoderScorer` defines them."""
        on_device = {name: value.to(self.device) for name, value in features.items()}
        lower = self.dtype != torch.float32
        with torch.autocast(self.device.partition(":")[0], dtype=self.dtype, enabled=lower):
            logits = self.model(**on_device).logits.float()
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]


def load_base(settings: TeacherSettings, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, bool]:
    """The model that training begins with, in float32; its tokenizer; whether it is a reranker already.

    A classifier with one label or two is a reranker. Any other encoder gets a new head with one label.

    Args:
        settings: of the teacher; `model` is set.
        seed: of the weights of a new head.

    Raises:
        InputError: the model cannot be loaded, or it is a causal language model.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    assert settings.model is not None, "the stage has put in the student's base"
    options: dict[str, Any] = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}

    def construct(path: str, model_kwargs: dict[str, Any]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, bool]:
        path = _transformer_folder(path)
        config = AutoConfig.from_pretrained(path, **options)
        names = list(config.architectures or [])
        if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
            raise ValueError(f"it is {' and '.join(names)}, a causal language model.")
        is_reranker = any(name.endswith("ForSequenceClassification") for name in names) and config.num_labels <= 2
        if not is_reranker:
            config.num_labels = 1
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            path, config=config, ignore_mismatched_sizes=not is_reranker, **options, **model_kwargs
        )
        if hasattr(model, "score"):  # the head of decoders in transformers
            raise ValueError(f"it is {type(model).__name__}, which reads in one direction.")
        return model, AutoTokenizer.from_pretrained(path, **options), is_reranker

    model, tokenizer, is_reranker = load_safetensors(
        construct,
        settings.model,
        settings.revision,
        "float32",
        role="model of an adapted teacher",
        expected="an encoder or a reranker with safetensors weights: a folder, or an id that the hub or its local "
        "cache has",
        output=_hidden_states,
    )
    give_padding(tokenizer)
    tokenizer.model_max_length = longest_pair(settings, model, tokenizer)
    return model, tokenizer, is_reranker


def longest_pair(settings: TeacherSettings, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of a pair that the model can read, at most `max_tokens` of the recipe."""
    positions = getattr(model.config, "max_position_embeddings", None) or settings.max_tokens
    return most_tokens(model, min(settings.max_tokens, positions, tokenizer.model_max_length))


def _hidden_states(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase, bool]) -> torch.Tensor:
    """Of any text: a reranker needs its head, too, and a new head may be random."""
    model, tokenizer, is_reranker = loaded
    features = tokenizer("a query", "a passage", return_tensors="pt")
    return model(**features).logits if is_reranker else model.base_model(**features)[0]


def _transformer_folder(path: str) -> str:
    """Folder of the transformer inside a folder of sentence-transformers; any other path unchanged."""
    modules = Path(path, "modules.json")
    if not modules.is_file() or Path(path, "config.json").is_file():
        return path
    first = json.loads(modules.read_text())[0]["path"]
    if not Path(path, first, "config.json").is_file():
        raise InputError(f"model '{path}': its first module has no config.json, so it is no transformer.")
    return str(Path(path, first))
