"""Attention of padded sequences on CPUs: matrix products and a softmax, forward and backward, in the encoder's dtype.

Transformers adds its float32 mask to bfloat16 scores, which makes them float32 for softmax and everything after it;
torch's fused kernel has a slow backward on CPUs. Here scores never leave their dtype, queries are scaled instead of
scores, and heads lie one after another before they are multiplied. What that is worth is in
`docs/decisions/compute-on-cpus.md`; it differs from float32 no more than the model's own attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from distill.engine import everywhere
from distill.linears import in_bfloat16
from distill.packed import SAME, differences
from distill.recall import dear_call, recalls_next

if TYPE_CHECKING:
    from distill.student import Student

NAME = "listwise_products"
IN_CACHE = 4 * 2**20  # bytes of scores


def choose_attention(student: Student, features: dict[str, Any]) -> None:
    """Lets the student attend with plain products, if it is on a CPU and its embeddings stay what they are.

    Sets `student.products`. A model whose attention has more to it (soft caps, biases of positions, sinks) is found out
    by comparing. Every rank calls it, and all decide alike.

    Args:
        student: on its device, in its dtype.
        features: of a few sequences, padded, for a trial.
    """
    if not everywhere(student.device == "cpu"):
        return
    dtype = student.dtype
    student.dtype = torch.float32  # where only another formula differs
    with torch.no_grad():
        expected = student(**features)
    student.products = True
    student.products = everywhere(differences(student, features, expected, SAME[student.dtype]) == "")
    student.dtype = dtype


class Products(torch.autograd.Function):
    """softmax(scaling · Q Kᵀ + mask) V with its gradients written out, so that no operand is copied twice.

    A piece of the sequences at a time, whose scores stay in the processor's caches.
    """

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
        shape = query.shape
        ctx.scaling, ctx.pieces = scaling, pieces(query, mask)
        query, key, value = (each.reshape(-1, *shape[-2:]) for each in (query * scaling, key, value))
        keep = any(ctx.needs_input_grad) and not recalls_next()
        weights: list[torch.Tensor] = []

        def attend() -> torch.Tensor:
            found = torch.empty_like(query)
            for rows, hidden in ctx.pieces:
                made = attention_weights(query[rows], key[rows], hidden)
                torch.bmm(made, value[rows], out=found[rows])
                if keep:
                    weights.append(made)
            return found

        found = dear_call(attend)
        ctx.save_for_backward(query, key, value, *weights)
        return found.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of queries, keys and values. Weights are made again where the output had been recalled."""
        query, key, value, *weights = ctx.saved_tensors
        shape, gradient = gradient.shape, gradient.reshape(query.shape)
        for_query, for_key, for_value = (torch.empty_like(each) for each in (query, key, value))
        for number, (rows, hidden) in enumerate(ctx.pieces):
            q, k, v, g = query[rows], key[rows], value[rows], gradient[rows]
            made = weights[number] if weights else attention_weights(q, k, hidden)
            torch.bmm(made.transpose(1, 2), g, out=for_value[rows])
            for_scores = torch._softmax_backward_data(torch.bmm(g, v.transpose(1, 2)), made, -1, made.dtype)
            torch.bmm(for_scores, k, out=for_query[rows])
            torch.bmm(for_scores.transpose(1, 2), q, out=for_key[rows])
        return *(each.view(shape) for each in (for_query.mul_(ctx.scaling), for_key, for_value)), None, None


def pieces(query: torch.Tensor, mask: torch.Tensor | None) -> list[tuple[slice, torch.Tensor | None]]:
    """Heads whose scores are made together: those of as many sequences as `IN_CACHE` bytes hold, and one at least.

    Args:
        query: (B, heads, T, d).
        mask: (B, 1, T, columns), or one for all.

    Returns:
        Rows of the B · heads, and their sequences' part of the mask.
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
    """Softmax of the scores of scaled queries; in bfloat16 oneDNN's, which takes half as long as torch's.

    Args:
        query, key: (sequences · heads, T, d).
        mask: (sequences, 1, T, columns), or one for all; added to the last columns of scores.

    Returns:
        (sequences · heads, T, T).
    """
    scores = torch.bmm(query, key.transpose(1, 2))
    if mask is not None:
        scores.unflatten(0, (mask.shape[0], -1))[..., -mask.shape[-1] :] += mask
    if scores.dtype == torch.bfloat16 and in_bfloat16():
        return torch.softmax(scores.to_mkldnn(), dim=-1).to_dense()
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
