"""Batches of token ids: of similar length, within a budget of tokens, and halved when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from distill.encoders.by_length import by_length, padded_width
from distill.encoders.halving import halved_until_it_fits
from distill.encoders.tokens import PADDED_TO


class Batches:
    """Runs a model over sequences of token ids, longest first, so that memory runs out in the first batch or never.

    Args:
        tokens: most tokens of a batch, padding included. A batch that runs out of memory is halved, and later calls
            begin with the halved size.
        longest: most tokens of a sequence that the model takes.
        device: where the model is.
        pad: id with which sequences are filled up; the mask hides it.
        multiple: lengths of batches are multiples of it.

    `read` counts tokens, without padding, since the last `take`.
    """

    def __init__(self, tokens: int, longest: int, device: str, pad: int = 0, multiple: int = PADDED_TO) -> None:
        self.tokens = tokens
        self.longest = longest
        self.device = device
        self.pad = pad
        self.multiple = multiple
        self.read = 0

    def run(
        self, sequences: Sequence[Sequence[int]], compute: Callable[[torch.Tensor, torch.Tensor, list[int]], np.ndarray]
    ) -> np.ndarray:
        """(n,) float32 results for n sequences, in their order.

        Args:
            sequences: token ids of each, at least one.
            compute: gets (B, T) ids, their (B, T) mask and the B numbers of the sequences, and returns (B,) results.

        Raises:
            RuntimeError: one sequence alone runs out of memory.
        """
        lengths, read = np.array([len(one) for one in sequences], dtype=np.int64), self.read

        def attempt(tokens: int) -> np.ndarray:
            results = np.empty(len(sequences), np.float32)
            self.read = read
            for numbers in map(np.ndarray.tolist, by_length(lengths, tokens, self._width)):
                ids, mask = self.filled([sequences[number] for number in numbers])
                self.read += sum(len(sequences[number]) for number in numbers)
                with torch.no_grad():
                    results[numbers] = compute(ids, mask, numbers)
            return results

        # the size is kept only after success: a pair too large for memory must not shrink later batches
        results, self.tokens = halved_until_it_fits(attempt, self.tokens, self._width(int(lengths.max(initial=1))))
        return results

    def take(self) -> int:
        """Tokens that were read since the last call."""
        read, self.read = self.read, 0
        return read

    def _width(self, length: int) -> int:
        return padded_width(length, self.multiple, max(self.longest, length))

    def filled(self, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T) int64 ids of B sequences, filled up to one length, and their (B, T) int64 mask, on the device."""
        width = self._width(max(map(len, sequences)))
        ids = np.full((len(sequences), width), self.pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)
