"""Texts that were made into tokens together, and go to the model in batches of similar length.

A library fills all texts that it reads at once up to the longest of them. How many tokens a text has is known only
then: characters say little, since a name or a formula has more tokens than a common word of its length. So batches are
cut out of what was read, each as wide as its longest text, and no text is read twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from distill.encoders.by_length import by_length, padded_width
from distill.encoders.tokens import PADDED_TO


class ReadTexts:
    """Inputs of a model for n texts.

    Args:
        features: as `Reading.features` returns them; those of sequences are (n, T).
        device: on which batches will be computed. Kernels of GPUs are cached by shape, so batches for them have few
            widths.

    Attributes:
        lengths: (n,) int64 tokens of each text.
    """

    def __init__(self, features: Mapping[str, Any], device: str) -> None:
        self._features = features
        mask = features["attention_mask"]
        self.lengths: np.ndarray = mask.sum(dim=1).numpy()
        self._shape = mask.shape
        self._is_left_padded = not bool(mask[:, 0].all())
        self._multiple = 1 if device == "cpu" else PADDED_TO

    def batches(self, tokens: int) -> Iterator[np.ndarray]:
        """Numbers of the texts of each batch, as `by_length` says; a batch has at most so many tokens."""
        return by_length(self.lengths, tokens, self._width)

    def batch(self, numbers: np.ndarray) -> dict[str, Any]:
        """Inputs of the model for B of the texts: what is (n, T) becomes (B, width), and all else stays."""
        width, rows = self._width(int(self.lengths[numbers].max())), torch.from_numpy(numbers)
        columns = slice(self._shape[1] - width, None) if self._is_left_padded else slice(width)
        return {
            name: value[rows, columns] if isinstance(value, torch.Tensor) and value.shape[:2] == self._shape else value
            for name, value in self._features.items()
        }

    def _width(self, longest: int) -> int:
        return padded_width(longest, self._multiple, self._shape[1])
