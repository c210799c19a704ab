"""Attention of padded sequences on CPUs: matrix products and a softmax, forward and backward, in the encoder's dtype.

Transformers adds its float32 mask to bfloat16 scores, which makes them float32 for softmax and everything after it;
torch's fused kernel has a slow backward on CPUs. Here scores never leave their dtype, queries are scaled instead of
scores, and a few sequences at a time are computed, so that their scores stay in the caches. `docs/compute.md` says what
that gains. The result differs from float32 no more than the model's own attention does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from distill.activations.reuse import reusable

NAME = "listwise_products"
IN_CACHE = 4 * 2**20  # bytes of scores that are computed together


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
        """(B, H, T, D) of queries, keys and values of that shape; the mask (B or 1, 1, T, T) is added to the scores."""
        shape = query.shape
        ctx.scaling, ctx.pieces = scaling, pieces(query, mask)
        query, key, value = (tensor.reshape(-1, *shape[2:]) for tensor in (query * scaling, key, value))
        weights: list[torch.Tensor] = []

        def attend() -> torch.Tensor:
            output = torch.empty_like(query)
            for rows, part in ctx.pieces:
                piece = attention_weights(query[rows], key[rows], part)
                torch.bmm(piece, value[rows], out=output[rows])
                if any(ctx.needs_input_grad):
                    weights.append(piece)
            return output

        output = reusable(attend)
        ctx.save_for_backward(query, key, value, *weights)
        return output.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of queries, keys and values. Where the output was reused, the weights are computed here."""
        query, key, value, *weights = ctx.saved_tensors
        shape, gradient = gradient.shape, gradient.reshape(query.shape)
        for_query, for_key, for_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        for number, (rows, part) in enumerate(ctx.pieces):
            q, k, v, g = query[rows], key[rows], value[rows], gradient[rows]
            piece = weights[number] if weights else attention_weights(q, k, part)
            torch.bmm(piece.transpose(1, 2), g, out=for_value[rows])
            for_scores = torch._softmax_backward_data(torch.bmm(g, v.transpose(1, 2)), piece, -1, piece.dtype)
            torch.bmm(for_scores, k, out=for_query[rows])
            torch.bmm(for_scores.transpose(1, 2), q, out=for_key[rows])
        return *(tensor.view(shape) for tensor in (for_query.mul_(ctx.scaling), for_key, for_value)), None, None


def pieces(query: torch.Tensor, mask: torch.Tensor | None) -> list[tuple[slice, torch.Tensor | None]]:
    """Rows of the B · H heads whose scores are computed together, and the part of the mask for their sequences.

    A piece holds as many sequences as have `IN_CACHE` bytes of scores, and one at least.

    Args:
        query: (B, H, T, D).
        mask: (B, 1, T, T), or (1, 1, T, T) for all.
    """
    count, heads, length, _ = query.shape
    size = max(1, IN_CACHE // (heads * length * length * query.element_size()))
    return [
        (
            slice(start * heads, (start + size) * heads),
            mask[start : start + size] if mask is not None and mask.shape[0] > 1 else mask,
        )
        for start in range(0, count, size)
    ]


def attention_weights(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """(n · H, T, T) softmax of the scores of scaled queries.

    Args:
        query, key: (n · H, T, D) of n sequences.
        mask: (n, 1, T, T), or (1, 1, T, T) for all; added to the scores.
    """
    scores = torch.bmm(query, key.transpose(1, 2))
    if mask is not None:
        scores.unflatten(0, (mask.shape[0], -1)).add_(mask)
    return torch.softmax(scores, dim=-1)


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
        query, key, value: (B, H, T, D); keys and values may have fewer heads.
        attention_mask: (B, 1, T, T) float, what is added to scores; None where there is nothing to hide.
        scaling: of scores; 1 / √D when empty.
        about: what other kernels need.

    Returns:
        (B, T, H, D), and no weights.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary positions leave them in float32 behind
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    if attention_mask is not None:
        # the least float32 becomes infinite in bfloat16, and a row that sees nothing would become no number
        attention_mask = attention_mask.clamp_min(torch.finfo(value.dtype).min).to(value.dtype)
    with torch.autocast(query.device.type, enabled=False):
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        output = Products.apply(query, key, value, attention_mask, scaling)
    return output.transpose(1, 2), None


AttentionInterface.register(NAME, products_attention)
AttentionMaskInterface.register(NAME, eager_mask)
