"""Attention within each sequence of a packed row, where the sequences of a micro-batch stand end to end.

On GPUs it is torch's variable-length flash attention (`torch.nn.attention.varlen`). On CPUs it is a loop over the
sequences, correct and slow: the tests compare with it, and `choose` takes it only where a recipe asks for packing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from transformers import AttentionInterface

from distill.encoders.module import EncoderModule

NAME = "listwise_packed"
UNSUPPORTED = ("position_bias", "s_aux", "softcap")  # arguments of some models' attention


def has_kernel(module: EncoderModule) -> bool:
    """Whether the encoder's device has flash attention for its dtype."""
    return (
        module.device.startswith("cuda")
        and module.dtype == torch.bfloat16
        and torch.cuda.get_device_capability(module.device) >= (8, 0)
    )


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **about: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it.

    Args:
        module: the layer; `is_causal` says whether a token sees only those before it.
        query: (1, H, T, D).
        key, value: (1, H or fewer, T, D).
        attention_mask: None, since there is no padding.
        scaling: of the scores; None: 1 / √D.
        sliding_window: tokens that see each other reach so far, counting both; None: all.
        about: holds `cu_seq_lens_q` (B + 1,) int32 and `max_length_q`.

    Returns:
        (1, T, H, D), and no weights.

    Raises:
        NotImplementedError: the model's attention has an argument that this one does not know.
    """
    if unknown := [name for name in UNSUPPORTED if about.get(name) is not None]:
        raise NotImplementedError(f"packed attention has no {', '.join(unknown)}")
    device = query.device.type  # autocast does not know this kernel, and rotary positions leave float32 behind
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    causal, reach = bool(getattr(module, "is_causal", False)), sliding_window - 1 if sliding_window else -1
    attend = _flash if query.is_cuda else _loop
    return attend(query, key, value, about["cu_seq_lens_q"], about["max_length_q"], scaling, reach, causal), None


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, boundaries: torch.Tensor, longest: int,
    scaling: float | None, reach: int, causal: bool,
) -> torch.Tensor:  # fmt: skip
    """(1, T, H, D) by torch's kernel."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    # torch 2.11 has no such argument: there the kernel is given fewer heads of keys without a word
    grouped: dict[str, Any] = (
        {"enable_gqa": True} if q.shape[1] != k.shape[1] and _has_argument(varlen_attn, "enable_gqa") else {}
    )
    window = (reach, 0 if causal else reach)
    output = varlen_attn(
        q, k, v, boundaries, boundaries, longest, longest, scale=scaling, window_size=window, **grouped
    )
    assert isinstance(output, torch.Tensor)
    return output[None]


@cache
def _has_argument(function: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(function).parameters


def _loop(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, boundaries: torch.Tensor, longest: int,
    scaling: float | None, reach: int, causal: bool,
) -> torch.Tensor:  # fmt: skip
    """(1, T, H, D), one sequence after the other."""
    outputs = []
    for start, stop in zip(boundaries[:-1].tolist(), boundaries[1:].tolist(), strict=True):
        distance = torch.arange(stop - start)[:, None] - torch.arange(stop - start)
        mask = (distance >= 0) if causal else torch.ones_like(distance, dtype=torch.bool)
        if reach >= 0:
            mask &= distance.abs() <= reach
        q, k, v = (tensor[:, :, start:stop] for tensor in (query, key, value))
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2)


AttentionInterface.register(NAME, packed_attention)
