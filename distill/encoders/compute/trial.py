"""Trials: another way to compute is used only where it gives an encoder the same embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from distill.encoders.tokens import TokenFile

if TYPE_CHECKING:
    from distill.encoders.module import EncoderModule


SAME = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # largest relative difference of an embedding in both layouts


def sampled_rows(tokens: TokenFile) -> np.ndarray:
    """Rows for a trial: the longest, the shortest and two between; none where all are empty."""
    filled = np.flatnonzero(tokens.lengths)
    order = filled[np.argsort(tokens.lengths[filled], kind="stable")]
    return order[np.linspace(0, len(order) - 1, 4).astype(np.int64)] if len(order) else order


def differences(student: EncoderModule, features: dict[str, Any], expected: torch.Tensor, most: float) -> str:
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
