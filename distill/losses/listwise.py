"""Losses over a whole list: the divergence of two distributions, and a surrogate of nDCG."""

from __future__ import annotations

import torch
import torch.nn.functional as F

MU = 10.0  # weight of δ in NDCG-Loss2++, as in allRank and sentence-transformers


def kl_divergence(student_BL: torch.Tensor, teacher_BL: torch.Tensor, filled_BL: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the student's distribution over each list from the teacher's.

    It is the list loss of CADET (arXiv 2505.19274).

    Both distributions are softmaxes over the filled slots: `KL = Σ p_teacher · (log p_teacher − log p_student)`.

    Args:
        student_BL: (B, L) float32 similarities divided by the student's temperature.
        teacher_BL: (B, L) float32 teacher scores divided by the teacher's temperature.
        filled_BL: (B, L) bool, False where a list is shorter than L.

    Returns:
        (B,) divergence of each query, ≥ 0.
    """
    student, teacher = (scores.masked_fill(~filled_BL, -torch.inf) for scores in (student_BL, teacher_BL))
    # An empty slot has log-probability −inf on both sides. Replaced by zero, its term is 0 · 0, not 0 · (inf − inf).
    log_student = F.log_softmax(student, dim=1).masked_fill(~filled_BL, 0.0)
    log_teacher = F.log_softmax(teacher, dim=1).masked_fill(~filled_BL, 0.0)
    probability = log_teacher.exp().masked_fill(~filled_BL, 0.0)
    return (probability * (log_teacher - log_student)).sum(dim=1)


def lambda_loss(student_BL: torch.Tensor, teacher_BL: torch.Tensor, filled_BL: torch.Tensor) -> torch.Tensor:
    """NDCG-Loss2++ of LambdaLoss (Wang et al., CIKM 2018), a smooth surrogate of 1 − nDCG.

    `Σ over i, j with y_i > y_j of (ρ_ij + μ δ_ij) · |G_i − G_j| · log2(1 + exp(s_j − s_i))` with gains
    `G_i = (2^y_i − 1) / maxDCG` and discounts `D_k = log2(1 + k)`. In `ρ_ij = |1/D_i − 1/D_j|` and
    `δ_ij = |1/D_|i−j| − 1/D_(|i−j|+1)|`, i and j are ranks by the student's scores; they have no gradient.

    Args:
        student_BL: (B, L) float32 similarities divided by the student's temperature, s.
        teacher_BL: (B, L) float32 teacher scores divided by the teacher's temperature, y, ≥ 0. At CADET's temperature
            of 0.3 they are grades from 0 to 3.3.
        filled_BL: (B, L) bool, False where a list is shorter than L.

    Returns:
        (B,) loss of each query, ≥ 0; 0 for a list whose scores are all equal.
    """
    length = student_BL.shape[1]
    ranks = torch.arange(1, length + 1, device=student_BL.device, dtype=student_BL.dtype)
    gain = (teacher_BL.exp2() - 1).masked_fill(~filled_BL, 0.0)
    max_dcg = (gain.sort(dim=1, descending=True).values / torch.log2(1 + ranks)).sum(dim=1, keepdim=True)
    gain = gain / max_dcg.clamp(min=torch.finfo(gain.dtype).tiny)

    order = student_BL.detach().masked_fill(~filled_BL, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(length, device=order.device).expand_as(order))
    inverse_discount = 1 / torch.log2(2 + rank.to(student_BL.dtype))
    rho = (inverse_discount[:, :, None] - inverse_discount[:, None, :]).abs()
    distance = (rank[:, :, None] - rank[:, None, :]).abs().clamp(min=1).to(student_BL.dtype)
    delta = (1 / torch.log2(1 + distance) - 1 / torch.log2(2 + distance)).abs()
    weight = (rho + MU * delta) * (gain[:, :, None] - gain[:, None, :]).abs()

    preferred = (teacher_BL[:, :, None] > teacher_BL[:, None, :]) & filled_BL[:, :, None] & filled_BL[:, None, :]
    cost = F.softplus(student_BL[:, None, :] - student_BL[:, :, None]) / torch.log(ranks.new_tensor(2.0))
    return (weight * cost).masked_fill(~preferred, 0.0).sum(dim=(1, 2))
