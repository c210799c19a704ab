"""Layout of a micro-batch: sequences are padded to one length, or packed end to end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from distill.encoders.tokens import TokenFile, padded_length

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class PackedError(ValueError):
    """The recipe asks for packed sequences, and the student cannot read them."""


@dataclass(frozen=True)
class Layout:
    """Layout of the sequences of a micro-batch.

    Attributes:
        pad_id: token id of padding.
        first_position: position id of a sequence's first token in packed sequences (0 in most models, more in
            RoBERTa); None if sequences are padded.
    """

    pad_id: int
    first_position: int | None = None

    @property
    def packed(self) -> bool:
        """Whether sequences are packed, without padding."""
        return self.first_position is not None

    def size(self, lengths: np.ndarray) -> int:
        """Number of tokens that a forward pass computes for sequences of these lengths, padding included."""
        return int(lengths.sum()) if self.packed else padded_length(int(lengths.max())) * len(lengths)

    def features(self, tokens: TokenFile, rows: np.ndarray) -> dict[str, Any]:
        """Inputs of a sentence-transformer for B rows, as tensors on the CPU.

        Padded: `input_ids` and `attention_mask`, (B, T) int64. Packed: `input_ids` and `position_ids`,
        (1, sum of lengths) int64; the boundaries `cu_seq_lens_q` = `cu_seq_lens_k`, (B + 1,) int32; each token's
        sequence `seq_idx`, (1, sum of lengths) int32; and the greatest length `max_length_q` = `max_length_k`.
        Bags of tokens: `input_ids`, (sum of lengths,) int64, and each row's first place in it, `offsets`, (B,) int64.
        """
        if tokens.is_bag:
            return {**self._bags(tokens, rows), **tokens.constants}
        if self.first_position is None:
            ids, mask = tokens.padded(rows, self.pad_id)
            return {"input_ids": ids, "attention_mask": mask, **tokens.constants}
        lengths = tokens.lengths[rows].astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        positions = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths) + self.first_position
        ids = torch.from_numpy(np.concatenate([tokens[row] for row in rows]).astype(np.int64))
        boundaries, longest = torch.from_numpy(starts.astype(np.int32)), int(lengths.max())
        # Pooling needs the sequence of each token. If it counted tokens itself, it would wait for the GPU.
        owners = torch.from_numpy(np.repeat(np.arange(len(rows), dtype=np.int32), lengths))
        return {
            "input_ids": ids[None], "position_ids": torch.from_numpy(positions)[None], "seq_idx": owners[None],
            "cu_seq_lens_q": boundaries, "cu_seq_lens_k": boundaries, "max_length_q": longest, "max_length_k": longest,
            **tokens.constants,
        }  # fmt: skip

    @staticmethod
    def _bags(tokens: TokenFile, rows: np.ndarray) -> dict[str, Any]:
        starts = np.concatenate([[0], np.cumsum(tokens.lengths[rows].astype(np.int64))])[:-1]
        ids = np.concatenate([tokens[row] for row in rows]).astype(np.int64)
        return {"input_ids": torch.from_numpy(ids), "offsets": torch.from_numpy(starts)}


def pad_token(model: SentenceTransformer) -> int:
    """Token id of padding: any id where the tokenizer has none, since the attention mask hides it."""
    return getattr(model.tokenizer, "pad_token_id", None) or 0
