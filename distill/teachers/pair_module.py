"""A reranker as a torch module: its transformer computed as encoders are, its classifier in float32.

How its linear layers multiply is chosen by a trial (`distill/encoders/compute/choose.py`), as for an encoder. What the
trial compares is the last hidden state of the first token, from which most classifiers score.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PairModule(nn.Module):
    """A sequence-classification model of transformers, in `dtype` but for the layers behind its transformer.

    Attributes:
        model: the classifier.
        layers: context in which the transformer runs.

    Args:
        model: on its device.
        device: "cpu" or "cuda…".
        dtype: of the transformer's weights and arithmetic.
    """

    def __init__(self, model: PreTrainedModel, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.device = device
        self.dtype = dtype
        self.layers: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        self.body = model.base_model
        heads = [module for module in model.children() if module is not self.body]
        heads += [pooler] if isinstance(pooler := getattr(self.body, "pooler", None), nn.Module) else []
        self._heads = tuple(heads)
        for head in self._heads:
            _compute_in_float32(head, device)

    def forward(self, **features: Any) -> torch.Tensor:
        """(B, H) float32 last hidden states of the first tokens."""
        with self._computing():
            return self.body(**features).last_hidden_state[:, 0].float()

    def logits(self, **features: Any) -> torch.Tensor:
        """(B, labels) float32 logits of B pairs: ids, mask and perhaps token types, (B, T) each."""
        with self._computing():
            return self.model(**features).logits.float()

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        lower = self.device == "cpu" and self.dtype != torch.float32  # weights have the dtype: GPUs need no autocast
        with torch.autocast(self.device.partition(":")[0], dtype=self.dtype, enabled=lower), self.layers:
            yield


def _compute_in_float32(module: nn.Module, device: str) -> None:
    """Makes a module compute in float32, whatever it is given: bfloat16 scores would have ties."""
    forward, kind = module.float().forward, device.partition(":")[0]

    def cast(value: Any) -> Any:
        return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    def in_float32(*inputs: Any, **named: Any) -> Any:
        with torch.autocast(kind, enabled=False):
            return forward(*map(cast, inputs), **{name: cast(value) for name, value in named.items()})

    module.forward = in_float32
