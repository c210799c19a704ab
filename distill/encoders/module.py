"""The encoder as it is trained, and as texts are read with it: how it attends and multiplies is chosen beforehand."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from distill.activations.recompute import Calls
from distill.encoders.compute.cpu_attention import NAME as PRODUCTS
from distill.encoders.compute.cpu_linears import Linears
from distill.encoders.compute.packed_attention import NAME as PACKED

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer


class EncoderModule(nn.Module):
    """An encoder as DeepSpeed trains it: float32 weights, the transformer under autocast, no dropout.

    Args:
        model: sentence-transformer with float32 weights.
        device: "cpu" or "cuda…".
        dtype: of the transformer's arithmetic.
        trained: whether it has backward passes; if not, it only reads.

    `packed` says in which layout its sequences come (`distill/encoders/compute/packed_attention.py`), `products` how it
    attends on a CPU (`distill/encoders/compute/cpu_attention.py`), `linears` how its layers multiply there
    (`distill/encoders/compute/cpu_linears.py`).
    """

    def __init__(self, model: SentenceTransformer, device: str, dtype: torch.dtype, trained: bool = True) -> None:
        super().__init__()
        self.model = model
        self.device = device
        self.dtype = dtype
        self.trained = trained
        self.packed = self.products = False
        self.linears: Linears | None = None
        transformer = model.transformers_model
        self._loaded = transformer.config._attn_implementation if transformer is not None else None

    def forward(self, calls: Calls | None = None, **features: Any) -> torch.Tensor:
        """(B, d) float32 embeddings of the B sequences that a `Layout` has laid out; `calls` answers the dear ones."""
        self._attend_as(PACKED if self.packed else self._attention())
        here = {
            name: value.to(self.device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }
        with calls or contextlib.nullcontext(), self.linears or contextlib.nullcontext():
            return embed(self.model, {**here, "modality": "text"}, self.device, self.dtype)

    def _attention(self) -> str | None:
        """Of padded sequences: plain products if they are chosen, else what the model came with.

        That may have a slow backward on CPUs; the model's formula, written out, has not.
        """
        if self.products:
            return PRODUCTS
        return "eager" if self.device == "cpu" and self.trained else self._loaded

    def _attend_as(self, attention: str | None) -> None:
        transformer = self.model.transformers_model
        if transformer is not None and attention and transformer.config._attn_implementation != attention:
            transformer.set_attn_implementation(attention)


def embed(model: SentenceTransformer, features: dict[str, Any], device: str, dtype: torch.dtype) -> torch.Tensor:
    """(B, d) float32 sentence embeddings: the transformer under autocast to `dtype`, every later module in float32."""
    import torch

    modules = list(model)
    lower = dtype != torch.float32
    with torch.autocast(device.partition(":")[0], dtype=dtype, enabled=lower):
        features = modules[0](dict(features))
    features["token_embeddings"] = features["token_embeddings"].float()
    for module in modules[1:]:
        features = module(features)
    return features["sentence_embedding"].float()
