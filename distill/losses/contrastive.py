"""InfoNCE over every passage of the global batch; teacher scores decide which listed passages are negatives."""

from __future__ import annotations

import torch


def not_negative_mask(teacher_BL: torch.Tensor, filled_BL: torch.Tensor, margin: float) -> torch.Tensor:
    """(B, L) bool, True where a listed passage must not count as a negative.

    These are the passages that the teacher scores above `margin` × the best score of the list, and the best itself.
    """
    scores = teacher_BL.masked_fill(~filled_BL, -torch.inf)
    best = scores.max(dim=1, keepdim=True).values
    return filled_BL & ((scores > margin * best) | (scores == best))


def info_nce(
    logits_BU: torch.Tensor,
    slots_BL: torch.Tensor,
    teacher_BL: torch.Tensor,
    filled_BL: torch.Tensor,
    log_count_U: torch.Tensor | None,
    margin: float,
) -> torch.Tensor:
    """Teacher-aware InfoNCE over every passage of the global batch (CADET, arXiv 2505.19274).

    `−log (e^s_p / (e^s_p + Σ e^s_n))`. The positive p is the passage with the highest teacher score of the list. Every
    other passage of the batch is a negative n, except listed passages with a teacher score above `margin` × the best.

    Args:
        logits_BU: (B, U) float32 similarities divided by the temperature.
        slots_BL: (B, L) int64 positions of the listed passages in 0…U−1; any valid position where a slot is empty.
        teacher_BL: (B, L) float32 normalised teacher scores.
        filled_BL: (B, L) bool, False where a list is shorter than L.
        log_count_U: (U,) logarithm of the number of slots that hold each passage, added to the logits of negatives;
            None counts each passage once.
        margin: fraction of the best score.

    Returns:
        (B,) negative log-likelihood of the positive of each query.
    """
    best_slot = teacher_BL.masked_fill(~filled_BL, -torch.inf).argmax(dim=1, keepdim=True)
    positive = logits_BU.gather(1, slots_BL.gather(1, best_slot))
    excluded = torch.zeros_like(logits_BU, dtype=torch.int8)
    not_negative = not_negative_mask(teacher_BL, filled_BL, margin)
    excluded.scatter_reduce_(1, slots_BL, not_negative.to(torch.int8), reduce="amax")
    weighted = logits_BU if log_count_U is None else logits_BU + log_count_U
    negatives = weighted.masked_fill(excluded.bool(), -torch.inf)
    return torch.cat([positive, negatives], dim=1).logsumexp(dim=1) - positive.squeeze(1)
