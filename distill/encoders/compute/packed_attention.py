"""How the sequences of a micro-batch are put to the transformer: padded to one length, or packed end to end.

Packed, they are one row of tokens without any padding, and attention is told where each sequence begins. On GPUs that
is torch's variable-length flash attention (`torch.nn.attention.varlen`), registered with transformers under `NAME`;
sentence-transformers pools what comes out by the same boundaries. On CPUs it is a loop, right and slow: the witness of
the tests, and never chosen by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface

from distill.activations.recompute import dear_call
from distill.collectives import all_ranks
from distill.encoders.compute.trial import SAME, differences, sampled_rows
from distill.encoders.layout import Layout, PackedError
from distill.encoders.tokens import TokenFile

if TYPE_CHECKING:
    from distill.encoders.module import EncoderModule

NAME = "listwise_packed"


def choose_layout(student: EncoderModule, tokens: TokenFile, pad_id: int, wanted: bool | None) -> Layout:
    """Packed, if that is wanted and gives this student the same embeddings as padding; else padded.

    Sets `student.packed` accordingly. Sequences that are compared: the longest, the shortest and two between. A model
    that does not pass the boundaries on, or needs what packed attention has not, is found out by this. Every rank calls
    it, before DeepSpeed divides the parameters, and all get the same answer.

    Args:
        student: on its device, in its dtype.
        tokens: of passages.
        pad_id: token id of padding.
        wanted: by the recipe; None: on GPUs that have flash attention, in bfloat16.

    Raises:
        PackedError: it is wanted, and this student cannot.
    """
    padded, rows = Layout(pad_id), sampled_rows(tokens)
    if wanted is False or (wanted is None and not all_ranks(_has_kernel(student))) or not len(rows):
        return padded
    with torch.no_grad():
        expected = student(**padded.features(tokens, rows))
    why = ""
    for first in (0, pad_id + 1):
        layout, student.packed = Layout(pad_id, first), True
        problem = _differs(student, layout.features(tokens, rows), first, expected)
        if all_ranks(not problem):
            return layout
        student.packed, why = False, why or problem
    if wanted:
        raise PackedError(why or "another rank cannot pack")
    return padded


def _differs(student: EncoderModule, features: dict[str, Any], first: int, expected: torch.Tensor) -> str:
    """Why these packed sequences are not encoded as the padded ones were; empty if they are."""
    transformer = student.model.transformers_model
    room = getattr(getattr(transformer, "config", None), "max_position_embeddings", None) or 1 << 30
    if first + features["max_length_q"] > room:
        return f"{room} positions are too few"
    why = differences(student, features, expected, SAME[student.dtype])
    return f"packed sequences give {why}" if why.startswith("other embeddings") else why


def _has_kernel(student: EncoderModule) -> bool:
    return (
        student.device.startswith("cuda")
        and student.dtype == torch.bfloat16
        and torch.cuda.get_device_capability(student.device) >= (8, 0)
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
    """Attention within each sequence of a packed row, as transformers calls it.

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
    """
    if unknown := [name for name in ("position_bias", "s_aux", "softcap") if about.get(name) is not None]:
        raise NotImplementedError(f"packed attention has no {', '.join(unknown)}")
    boundaries, longest = about["cu_seq_lens_q"], about["max_length_q"]
    device = query.device.type  # autocast does not know this kernel, and rotary positions leave float32 behind
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    query, key, value = (each.to(dtype) for each in (query, key, value))
    causal = bool(getattr(module, "is_causal", False))
    reach = sliding_window - 1 if sliding_window else -1
    grouped = query.shape[1] != key.shape[1]
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (each[0].transpose(0, 1).contiguous() for each in (query, key, value))

        def attend() -> torch.Tensor:
            found = varlen_attn(
                q, k, v, boundaries, boundaries, longest, longest, scale=scaling, enable_gqa=grouped,
                window_size=(reach, 0 if causal else reach),
            )  # fmt: skip
            assert isinstance(found, torch.Tensor)
            return found

        return dear_call(attend, kernel=True)[None], None
    parts = []
    for start, stop in zip(boundaries[:-1].tolist(), boundaries[1:].tolist(), strict=True):
        near = torch.arange(stop - start)[:, None] - torch.arange(stop - start)
        seen = (near >= 0) if causal else torch.ones_like(near, dtype=torch.bool)
        if reach >= 0:
            seen &= near.abs() <= reach
        q, k, v = (each[:, :, start:stop] for each in (query, key, value))
        parts.append(
            torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scaling, enable_gqa=grouped)
        )
    return torch.cat(parts, dim=2).transpose(1, 2), None


AttentionInterface.register(NAME, packed_attention)
