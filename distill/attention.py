"""Attention of padded sequences on CPUs: matrix products and a softmax, forward and backward, in the encoder's dtype.

Transformers adds its float32 mask to bfloat16 scores, which makes them float32 for softmax and everything after it;
torch's fused kernel has a slow backward on CPUs. Here scores never leave their dtype, queries are scaled instead of
scores, and heads lie one after another before they are multiplied. What that is worth is in `docs/decisions.md`; it
differs from float32 no more than the model's own attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from distill.engine import everywhere
from distill.packed import SAME, Layout, differences, sampled_rows
from distill.tokens import TokenFile

if TYPE_CHECKING:
    from distill.step import Student

NAME = "listwise_products"


def choose_attention(student: Student, tokens: TokenFile, layout: Layout) -> None:
    """Lets the student attend with plain products, if it is on a CPU and its embeddings stay what they are.

    Sets `student.products`. A model whose attention has more to it (soft caps, biases of positions, sinks) is found out
    by comparing. Every rank calls it, and all decide alike.

    Args:
        student: on its device, in its dtype.
        tokens: of passages.
        layout: padded.
    """
    rows = sampled_rows(tokens)
    if not everywhere(student.device == "cpu") or not len(rows):
        return
    features, dtype = layout.features(tokens, rows), student.dtype
    student.dtype = torch.float32  # where only another formula differs
    with torch.no_grad():
        expected = student(**features)
    student.products = True
    student.products = everywhere(differences(student, features, expected, SAME[student.dtype]) == "")
    student.dtype = dtype


class Products(torch.autograd.Function):
    """softmax(scaling · Q Kᵀ + mask) V with its gradients written out, so that no operand is copied twice."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
    ) -> torch.Tensor:
        """(B, heads, T, d) of queries, keys and values of that shape; a mask is added to the last columns of scores."""
        query, key, value = (query * scaling).contiguous(), key.contiguous(), value.contiguous()
        scores = query @ key.transpose(-1, -2)
        if mask is not None:
            scores[..., -mask.shape[-1] :] += mask
        weights = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(query, key, value, weights)
        ctx.scaling = scaling
        return weights @ value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of queries, keys and values."""
        query, key, value, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        for_value = weights.transpose(-1, -2) @ gradient
        for_scores = torch._softmax_backward_data(gradient @ value.transpose(-1, -2), weights, -1, weights.dtype)
        return (for_scores @ key) * ctx.scaling, for_scores.transpose(-1, -2) @ query, for_value, None, None


def products_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **about: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it.

    Args:
        module: the attention layer.
        query, key, value: (B, heads, T, d); keys and values may have fewer heads.
        attention_mask: (B, 1, T, T) float, what is added to scores; None where there is nothing to hide.
        scaling: of scores; 1 / √d when empty.
        about: what other kernels need.

    Returns:
        (B, T, heads, d), and no weights.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary positions leave them in float32 behind
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    if attention_mask is not None:
        attention_mask = hiding(attention_mask, value.dtype)
    with torch.autocast(query.device.type, enabled=False):
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        found = Products.apply(query, key, value, attention_mask, scaling)
    return found.transpose(1, 2), None


def hiding(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    """The last columns of a mask, from the first that hides something on, in `dtype`; None where nothing is hidden.

    Sequences of a micro-batch are of like length, so that few columns hold padding.

    Args:
        mask: (B, 1, T, T) float, what is added to scores.
        dtype: of the scores.
    """
    columns = (mask != 0).flatten(0, -2).any(dim=0).nonzero()
    if not len(columns):
        return None
    # what is least in float32 would become infinite, and a row that sees nothing no number
    return mask[..., int(columns[0]) :].clamp_min(torch.finfo(dtype).min).to(dtype)


AttentionInterface.register(NAME, products_attention)
AttentionMaskInterface.register(NAME, eager_mask)
