"""Trials: another way to compute is used only where it gives an encoder the same embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from distill.encoders.module import Computed
from distill.encoders.tokens import TokenFile

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # largest relative difference of an embedding


def sampled_rows(tokens: TokenFile) -> np.ndarray:
    """Rows for a trial: the longest, the shortest and two between; none where all are empty."""
    filled = np.flatnonzero(tokens.lengths)
    order = filled[np.argsort(tokens.lengths[filled], kind="stable")]
    return order[np.linspace(0, len(order) - 1, 4).astype(np.int64)] if len(order) else order


def difference(module: Computed, features: dict[str, Any], expected: torch.Tensor) -> str:
    """Why these features do not give the expected embeddings, or no gradient; empty if they do.

    Args:
        module: the encoder, switched to what is tried.
        features: of a `Layout`.
        expected: (B, d) embeddings.
    """
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    try:
        embeddings = module(**features)
        torch.autograd.grad(embeddings.sum(), weights[:1], allow_unused=True)  # a kernel may know only one direction
    except Exception as error:  # of any model's code
        return f"{type(error).__name__}: {error}"
    if embeddings.shape != expected.shape:
        return f"{tuple(embeddings.shape)} embeddings instead of {tuple(expected.shape)}"
    worst = float(((embeddings.detach() - expected).norm(dim=1) / expected.norm(dim=1)).max())
    return "" if worst <= TOLERANCE[module.dtype] else f"other embeddings, {worst:.2g} off"
