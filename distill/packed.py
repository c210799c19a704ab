"""How the sequences of a micro-batch are put to the transformer: padded to one length, or packed end to end.

Packed, they are one row of tokens without any padding, and attention is told where each sequence begins. On GPUs that
is torch's variable-length flash attention (`torch.nn.attention.varlen`), registered with transformers under `NAME`;
sentence-transformers pools what comes out by the same boundaries. On CPUs it is a loop, right and slow: the witness of
the tests, and never chosen by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AttentionInterface

from distill.tokens import TokenFile, padded_length

if TYPE_CHECKING:
    from distill.step import Student

NAME = "listwise_packed"
SAME = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # largest relative difference of an embedding in both layouts


@dataclass(frozen=True)
class Layout:
    """Padded with `pad_id`; or packed, if `first_position` says where a sequence begins (in RoBERTa not at 0)."""

    pad_id: int
    first_position: int | None = None

    @property
    def packed(self) -> bool:
        """Whether there is no padding."""
        return self.first_position is not None

    def size(self, lengths: np.ndarray) -> int:
        """Tokens that a forward pass over sequences of these lengths computes."""
        return int(lengths.sum()) if self.packed else padded_length(int(lengths.max())) * len(lengths)

    def features(self, tokens: TokenFile, rows: np.ndarray) -> dict[str, Any]:
        """What a sentence-transformer's modules take for these rows, on the CPU.

        Padded: `input_ids` and `attention_mask` (B, T). Packed: `input_ids` and `position_ids` (1, sum of lengths),
        the boundaries `cu_seq_lens_q` = `cu_seq_lens_k` (B + 1,) int32, and the longest length.
        """
        if self.first_position is None:
            ids, mask = tokens.padded(rows, self.pad_id)
            return {"input_ids": ids, "attention_mask": mask}
        lengths = tokens.lengths[rows].astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        positions = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths) + self.first_position
        ids = torch.from_numpy(np.concatenate([tokens[row] for row in rows]).astype(np.int64))
        boundaries, longest = torch.from_numpy(starts.astype(np.int32)), int(lengths.max())
        return {
            "input_ids": ids[None], "position_ids": torch.from_numpy(positions)[None],
            "cu_seq_lens_q": boundaries, "cu_seq_lens_k": boundaries, "max_length_q": longest, "max_length_k": longest,
        }  # fmt: skip


def choose_layout(student: Student, tokens: TokenFile, pad_id: int, wanted: bool | None) -> Layout:
    """Packed, if that is wanted and gives this student the same embeddings as padding; else padded.

    Sets `student.packed` accordingly. Sequences that are compared: the longest, the shortest and two between.

    Args:
        student: on its device, in its dtype.
        tokens: of passages.
        pad_id: token id of padding.
        wanted: by the recipe; None: on GPUs that have flash attention, in bfloat16.

    Raises:
        ValueError: it is wanted, and this student cannot.
    """
    padded = Layout(pad_id)
    if wanted is False or (wanted is None and not _has_kernel(student)) or not len(tokens):
        return padded
    order = np.argsort(tokens.lengths, kind="stable")
    rows = order[np.linspace(0, len(order) - 1, 4).astype(np.int64)]
    transformer = student.model.transformers_model
    if transformer is None:
        return padded
    room = getattr(transformer.config, "max_position_embeddings", None) or 1 << 30
    with torch.no_grad():
        expected = student(**padded.features(tokens, rows))
        for first in (0, pad_id + 1):
            if first + int(tokens.lengths[rows].max()) > room:
                continue
            layout, student.packed = Layout(pad_id, first), True
            try:
                found = student(**layout.features(tokens, rows))
            except (RuntimeError, TypeError, ValueError, NotImplementedError):
                found = None
            if found is not None and found.shape == expected.shape:
                difference = (found - expected).norm(dim=1) / expected.norm(dim=1)
                if float(difference.max()) <= SAME[student.dtype]:
                    return layout
            student.packed = False
    if wanted:
        raise ValueError("packed sequences give other embeddings than padded ones")
    return padded


def _has_kernel(student: Student) -> bool:
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
    boundaries, longest = about["cu_seq_lens_q"], about["max_length_q"]
    causal = bool(getattr(module, "is_causal", False))
    reach = sliding_window - 1 if sliding_window else -1
    grouped = query.shape[1] != key.shape[1]
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (each[0].transpose(0, 1).contiguous() for each in (query, key, value))
        found = varlen_attn(
            q, k, v, boundaries, boundaries, longest, longest, scale=scaling, enable_gqa=grouped,
            window_size=(reach, 0 if causal else reach),
        )  # fmt: skip
        assert isinstance(found, torch.Tensor)
        return found[None], None
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
