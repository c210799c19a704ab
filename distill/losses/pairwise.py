"""Losses over pairs of passages of one list."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def margin_mse(student_BL: torch.Tensor, teacher_BL: torch.Tensor, filled_BL: torch.Tensor) -> torch.Tensor:
    """MarginMSE (Hofstätter et al., arXiv 2010.02666): the squared error of the student's margins from the teacher's.

    `mean over negatives n of ((s_p − s_n) − (t_p − t_n))²`. The positive p is the passage with the highest teacher
    score, the negatives n are all others of the list. With both temperatures at 1 the scores are the paper's raw
    scores. With others the optimum is that of the KL divergence, `s / τ_student = t / τ_teacher + constant`.

    Args:
        student_BL: (B, L) float32 similarities divided by the student's temperature, s.
        teacher_BL: (B, L) float32 teacher scores divided by the teacher's temperature, t.
        filled_BL: (B, L) bool, False where a list is shorter than L.

    Returns:
        (B,) loss of each query; 0 for a list of one passage.
    """
    best_slot = teacher_BL.masked_fill(~filled_BL, -torch.inf).argmax(dim=1, keepdim=True)
    error = (student_BL.gather(1, best_slot) - student_BL) - (teacher_BL.gather(1, best_slot) - teacher_BL)
    negatives = filled_BL.scatter(1, best_slot, torch.zeros_like(best_slot, dtype=torch.bool))
    return error.square().masked_fill(~negatives, 0.0).sum(dim=1) / negatives.sum(dim=1).clamp(min=1)


def ranknet(student_BL: torch.Tensor, teacher_BL: torch.Tensor, filled_BL: torch.Tensor) -> torch.Tensor:
    """RankNet (Burges et al., ICML 2005): the cross entropy of the order of every pair.

    `mean over i, j with t_i > t_j of log(1 + exp(s_j − s_i))`: the paper's cross entropy with target probability 1 that
    i ranks above j.

    Args:
        student_BL: (B, L) float32 similarities divided by the student's temperature, s.
        teacher_BL: (B, L) float32 teacher scores, t; only their order matters.
        filled_BL: (B, L) bool, False where a list is shorter than L.

    Returns:
        (B,) loss of each query; 0 for a list whose scores are all equal.
    """
    preferred = (teacher_BL[:, :, None] > teacher_BL[:, None, :]) & filled_BL[:, :, None] & filled_BL[:, None, :]
    cost = F.softplus(student_BL[:, None, :] - student_BL[:, :, None])
    return cost.masked_fill(~preferred, 0.0).sum(dim=(1, 2)) / preferred.sum(dim=(1, 2)).clamp(min=1)
