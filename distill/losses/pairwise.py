"""Losses over pairs of passages of one list."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def margin_mse(student_BL: torch.Tensor, teacher_BL: torch.Tensor, filled_BL: torch.Tensor) -> torch.Tensor:
    """MarginMSE (Hofstätter et al., arXiv 2010.02666): the student shall have the teacher's margins.

    `mean over negatives n of ((s_p − s_n) − (t_p − t_n))²`; the positive p is the passage the teacher scores highest,
    the negatives are all others of the list. With both temperatures at 1 these are the paper's raw scores; with others
    the optimum is the one of the KL divergence, `s / τ_student = t / τ_teacher + constant`.

    Args:
        student_BL: (B, L) float32 similarities divided by the student's temperature, s.
        teacher_BL: (B, L) float32 teacher scores divided by the teacher's temperature, t.
        filled_BL: (B, L) bool, False where a list is shorter than L.

    Returns:
        (B,) loss of each query; 0 for a list of one passage.
    """
    place = teacher_BL.masked_fill(~filled_BL, -torch.inf).argmax(dim=1, keepdim=True)
    wrong = (student_BL.gather(1, place) - student_BL) - (teacher_BL.gather(1, place) - teacher_BL)
    negatives = filled_BL.scatter(1, place, torch.zeros_like(place, dtype=torch.bool))
    return wrong.square().masked_fill(~negatives, 0.0).sum(dim=1) / negatives.sum(dim=1).clamp(min=1)


def ranknet(student_BL: torch.Tensor, teacher_BL: torch.Tensor, filled_BL: torch.Tensor) -> torch.Tensor:
    """RankNet (Burges et al., ICML 2005): the student shall order every pair as the teacher does.

    `mean over i, j with t_i > t_j of log(1 + exp(s_j − s_i))`, the paper's cross entropy where i is surely the better.

    Args:
        student_BL: (B, L) float32 similarities divided by the student's temperature, s.
        teacher_BL: (B, L) float32 teacher scores, t; only their order matters.
        filled_BL: (B, L) bool, False where a list is shorter than L.

    Returns:
        (B,) loss of each query; 0 for a list whose scores are all equal.
    """
    above = (teacher_BL[:, :, None] > teacher_BL[:, None, :]) & filled_BL[:, :, None] & filled_BL[:, None, :]
    cost = F.softplus(student_BL[:, None, :] - student_BL[:, :, None])
    return cost.masked_fill(~above, 0.0).sum(dim=(1, 2)) / above.sum(dim=(1, 2)).clamp(min=1)
