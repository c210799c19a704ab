"""Batches of sequences of similar length, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np


def by_length(lengths: np.ndarray, tokens: int, width: Callable[[int], int]) -> Iterator[np.ndarray]:
    """Numbers of the sequences of each batch, the longest first, so that memory runs out in the first batch or never.

    Args:
        lengths: `(n,)` tokens of each sequence.
        tokens: most tokens of a batch, padding included. A longer sequence is alone.
        width: tokens to which a batch is padded whose longest sequence has so many.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, tokens // width(int(lengths[order[start]])))
        yield order[start : start + count]
        start += count


def padded_width(longest: int, multiple: int, most: int) -> int:
    """Tokens to which a batch is padded: a multiple that holds its longest sequence, and at most `most`."""
    return min(-(-max(longest, 1) // multiple) * multiple, most)
