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

from distill.activations.recompute import dear_call
from distill.encoders.tokens import TokenFile, padded_length
from distill.training.deepspeed_engine import everywhere

if TYPE_CHECKING:
    from distill.encoders.module import Student

NAME = "listwise_packed"
SAME = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # largest relative difference of an embedding in both layouts


class PackedError(ValueError):
    """Packed sequences are wanted of a student that cannot read them."""


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
        the boundaries `cu_seq_lens_q` = `cu_seq_lens_k` (B + 1,) int32, each token's sequence
        `seq_idx`, and the longest length.
        """
        if self.first_position is None:
            ids, mask = tokens.padded(rows, self.pad_id)
            return {"input_ids": ids, "attention_mask": mask}
        lengths = tokens.lengths[rows].astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        positions = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths) + self.first_position
        ids = torch.from_numpy(np.concatenate([tokens[row] for row in rows]).astype(np.int64))
        boundaries, longest = torch.from_numpy(starts.astype(np.int32)), int(lengths.max())
        # sequence of each token: to count them, pooling would wait for the GPU
        owners = torch.from_numpy(np.repeat(np.arange(len(rows), dtype=np.int32), lengths))
        return {
            "input_ids": ids[None], "position_ids": torch.from_numpy(positions)[None], "seq_idx": owners[None],
            "cu_seq_lens_q": boundaries, "cu_seq_lens_k": boundaries, "max_length_q": longest, "max_length_k": longest,
        }  # fmt: skip


def sampled_rows(tokens: TokenFile) -> np.ndarray:
    """Rows for a trial: the longest, the shortest and two between; none where all are empty."""
    filled = np.flatnonzero(tokens.lengths)
    order = filled[np.argsort(tokens.lengths[filled], kind="stable")]
    return order[np.linspace(0, len(order) - 1, 4).astype(np.int64)] if len(order) else order


def choose_layout(student: Student, tokens: TokenFile, pad_id: int, wanted: bool | None) -> Layout:
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
    if wanted is False or (wanted is None and not everywhere(_has_kernel(student))) or not len(rows):
        return padded
    with torch.no_grad():
        expected = student(**padded.features(tokens, rows))
    why = ""
    for first in (0, pad_id + 1):
        layout, student.packed = Layout(pad_id, first), True
        problem = _differs(student, layout.features(tokens, rows), first, expected)
        if everywhere(not problem):
            return layout
        student.packed, why = False, why or problem
    if wanted:
        raise PackedError(why or "another rank cannot pack")
    return padded


def differences(student: Student, features: dict[str, Any], expected: torch.Tensor, most: float) -> str:
    """Why these features do not give the expected embeddings, or no gradient; empty if they do.

    Args:
        student: as it is to be tried.
        features: of a `Layout`.
        expected: (B, d) embeddings.
        most: largest relative difference.
    """
    weights = [each for each in student.parameters() if each.requires_grad]
    try:
        found = student(**features)
        torch.autograd.grad(found.sum(), weights[:1], allow_unused=True)  # a kernel may know only one direction
    except Exception as error:  # of any model's code
        return f"{type(error).__name__}: {error}"
    if found.shape != expected.shape:
        return f"{tuple(found.shape)} embeddings instead of {tuple(expected.shape)}"
    difference = float(((found.detach() - expected).norm(dim=1) / expected.norm(dim=1)).max())
    return "" if difference <= most else f"other embeddings, {difference:.2g} off"


def _differs(student: Student, features: dict[str, Any], first: int, expected: torch.Tensor) -> str:
    """Why these packed sequences are not encoded as the padded ones were; empty if they are."""
    transformer = student.model.transformers_model
    room = getattr(getattr(transformer, "config", None), "max_position_embeddings", None) or 1 << 30
    if first + features["max_length_q"] > room:
        return f"{room} positions are too few"
    why = differences(student, features, expected, SAME[student.dtype])
    return f"packed sequences give {why}" if why.startswith("other embeddings") else why


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
