"""The layout of a micro-batch: sequences padded to one length, or packed end to end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distill.encoders.tokens import TokenFile, padded_length


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
