"""Ragged gather of embeddings over the ranks, and its adjoint for their gradients.

The plan tells the sizes, so only embeddings travel: one all-gather of shares that are padded to the largest share.
The adjoint is a reduce-scatter: every owner receives the sum over all ranks of the gradients of its embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist


def gather_ragged(local: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """All ranks' rows, rank after rank: (sizes[rank], d) here becomes (sum of sizes, d) everywhere.

    Args:
        local: this rank's rows, float32.
        sizes: rows of every rank, the same list on all of them.
    """
    if len(sizes) == 1:
        return local
    largest = max(sizes)
    padded = local.new_zeros(largest, local.shape[1])
    padded[: local.shape[0]] = local
    gathered = local.new_empty(len(sizes) * largest, local.shape[1])
    dist.all_gather_single(gathered, padded)
    return torch.cat([gathered[rank * largest : rank * largest + size] for rank, size in enumerate(sizes)])


def reduce_scatter_ragged(gradient: torch.Tensor, sizes: Sequence[int], rank: int) -> torch.Tensor:
    """The adjoint of `gather_ragged`: (sum of sizes, d) partial gradients become this rank's (sizes[rank], d) sums."""
    if len(sizes) == 1:
        return gradient
    largest = max(sizes)
    padded = gradient.new_zeros(len(sizes) * largest, gradient.shape[1])
    start = 0
    for owner, size in enumerate(sizes):
        padded[owner * largest : owner * largest + size] = gradient[start : start + size]
        start += size
    own = gradient.new_empty(largest, gradient.shape[1])
    dist.reduce_scatter_single(own, padded)
    return own[: sizes[rank]]
