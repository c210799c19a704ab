"""The encoder as a torch module: what DeepSpeed trains, and what embeds texts without training.

How it attends and how its linear layers multiply is chosen beforehand (`distill/encoders/compute/choose.py`); this
module is only told the name of an attention, and a context for its layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from distill.encoders.similarity import cut, normalizes
from distill.encoders.towers import tower

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class Computed(Protocol):
    """What a trial of linear layers needs of a module: an encoder, or a teacher's transformer."""

    device: str
    dtype: torch.dtype
    layers: contextlib.AbstractContextManager[Any]

    def __call__(self, **features: Any) -> torch.Tensor:
        """(B, d) float32 vectors of B sequences."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """All weights."""
        ...


class EncoderModule(nn.Module):
    """An encoder with float32 weights, its transformer under autocast to `dtype`, without dropout.

    Attributes:
        model: the sentence-transformer. Checkpoints name weights by this attribute: "model.0.…".
        attention: the name by which transformers knows the attention that is used; None leaves the model as it is.
        layers: context in which the forward pass runs.

    Args:
        model: sentence-transformer with float32 weights.
        device: "cpu" or "cuda…".
        dtype: of the transformer's arithmetic.
    """

    def __init__(self, model: SentenceTransformer, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.device = device
        self.dtype = dtype
        transformer = model.transformers_model
        self.attention: str | None = transformer.config._attn_implementation if transformer is not None else None
        self.layers: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()

    def forward(self, **features: Any) -> torch.Tensor:
        """(B, d) float32 embeddings of the B sequences that a `Layout` has laid out."""
        self._use_attention()
        on_device = {
            name: value.to(self.device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }
        with self.layers:
            return embed(self.model, {**on_device, "modality": "text"}, self.device, self.dtype)

    def _use_attention(self) -> None:
        """Another module may share the model and have switched it."""
        transformer = self.model.transformers_model
        if transformer is not None and self.attention and transformer.config._attn_implementation != self.attention:
            transformer.set_attn_implementation(self.attention)


def embed(model: SentenceTransformer, features: dict[str, Any], device: str, dtype: torch.dtype) -> torch.Tensor:
    """(B, d) float32 sentence embeddings: the transformer under autocast to `dtype`, every later module in float32.

    A model whose configuration truncates its embeddings gives truncated ones, as `encode` of its library does.
    """
    first, *others = tower(model, features.get("task"))
    with torch.autocast(device.partition(":")[0], dtype=dtype, enabled=dtype != torch.float32):
        features = first(dict(features))
    for name in ("token_embeddings", "sentence_embedding"):
        if name in features:
            features[name] = features[name].float()
    for module in others:
        features = module(features)
    return cut(features["sentence_embedding"].float(), model.truncate_dim, normalizes(model))
