"""Attention of padded sequences on CPUs: two matrix products and a softmax, all in the encoder's dtype.

Transformers adds its float32 mask to bfloat16 scores, which makes them float32 for softmax and everything after it;
torch's fused kernel has a slow backward on CPUs. Scaling queries instead of scores saves one more pass over the largest
tensor. A MiniLM trains so in 0.73 of the time (`docs/decisions.md`), and differs from float32 no more than before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
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
    with torch.autocast(query.device.type, enabled=False):
        scaled = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = scaled @ key.transpose(-1, -2)
        if attention_mask is not None:
            # what is least in float32 would become infinite, and a row that sees nothing no number
            scores = scores + attention_mask.clamp_min(torch.finfo(scores.dtype).min).to(scores.dtype)
        return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2), None


AttentionInterface.register(NAME, products_attention)
AttentionMaskInterface.register(NAME, eager_mask)
