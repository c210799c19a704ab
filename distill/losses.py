"""The losses of listwise distillation, in float32, for a block of queries against every passage of the global batch.

Letters: B queries of the block, L slots of a list, U unique passages of the global batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class LossSettings:
    """Temperatures and weights; the numbers are CADET's (arXiv 2505.19274)."""

    student_temperature: float = 0.05
    teacher_temperature: float = 0.3
    kl_weight: float = 1.0
    contrastive_weight: float = 0.1
    contrastive_temperature: float = 0.01
    contrastive_margin: float = 0.6
    weight_by_count: bool = False


def listwise_kl(
    student_BL: torch.Tensor, teacher_BL: torch.Tensor, filled_BL: torch.Tensor, settings: LossSettings
) -> torch.Tensor:
    """Kullback-Leibler divergence of the student's distribution over each list from the teacher's.

    Both distributions are softmaxes over the filled slots of the list, at their own temperature:
    `KL = Σ p_teacher · (log p_teacher − log p_student)`.

    Args:
        student_BL: (B, L) float32 similarities of query and listed passage.
        teacher_BL: (B, L) float32 normalised teacher scores.
        filled_BL: (B, L) bool, False where a list is shorter than L.

    Returns:
        (B,) divergence of each query, ≥ 0.
    """
    student = (student_BL / settings.student_temperature).masked_fill(~filled_BL, -torch.inf)
    teacher = (teacher_BL / settings.teacher_temperature).masked_fill(~filled_BL, -torch.inf)
    # An empty slot has log-probability −inf on both sides; zero makes its term 0 · 0 instead of 0 · (inf − inf).
    log_student = F.log_softmax(student, dim=1).masked_fill(~filled_BL, 0.0)
    log_teacher = F.log_softmax(teacher, dim=1).masked_fill(~filled_BL, 0.0)
    probability = log_teacher.exp().masked_fill(~filled_BL, 0.0)
    return (probability * (log_teacher - log_student)).sum(dim=1)


def no_negatives(teacher_BL: torch.Tensor, filled_BL: torch.Tensor, margin: float) -> torch.Tensor:
    """(B, L) bool: listed passages that the teacher scores above `margin` × the list's best, the best included."""
    scores = teacher_BL.masked_fill(~filled_BL, -torch.inf)
    best = scores.max(dim=1, keepdim=True).values
    return filled_BL & ((scores > margin * best) | (scores == best))


def contrastive(
    similarity_BU: torch.Tensor,
    slots_BL: torch.Tensor,
    teacher_BL: torch.Tensor,
    filled_BL: torch.Tensor,
    log_count_U: torch.Tensor | None,
    settings: LossSettings,
) -> torch.Tensor:
    """Teacher-aware InfoNCE over every passage of the global batch.

    The positive is the passage the teacher scores highest in the list. Every other passage of the batch is a negative,
    except listed ones that the teacher scores above `contrastive_margin` × the best.

    Args:
        similarity_BU: (B, U) float32 similarities.
        slots_BL: (B, L) positions of the listed passages in 0…U−1; any valid position where a slot is empty.
        teacher_BL: (B, L) float32 normalised teacher scores.
        filled_BL: (B, L) bool, False where a list is shorter than L.
        log_count_U: (U,) logarithm of how often the batch lists each passage, added to the logits of negatives, or None
            to count each passage once.

    Returns:
        (B,) negative log-likelihood of the positive, each query.
    """
    logits = similarity_BU / settings.contrastive_temperature
    place = teacher_BL.masked_fill(~filled_BL, -torch.inf).argmax(dim=1, keepdim=True)
    positive = logits.gather(1, slots_BL.gather(1, place))
    if log_count_U is not None:
        logits = logits + log_count_U
    excluded = torch.zeros_like(logits, dtype=torch.int8)
    kept_out = no_negatives(teacher_BL, filled_BL, settings.contrastive_margin)
    excluded.scatter_reduce_(1, slots_BL, kept_out.to(torch.int8), reduce="amax")
    negatives = logits.masked_fill(excluded.bool(), -torch.inf)
    return torch.cat([positive, negatives], dim=1).logsumexp(dim=1) - positive.squeeze(1)


@dataclass(frozen=True)
class LossSums:
    """Sums over this rank's queries, float64 scalars."""

    kl: torch.Tensor
    contrastive: torch.Tensor


def loss_and_gradients(
    query_BD: torch.Tensor,
    passage_UD: torch.Tensor,
    slots_BL: torch.Tensor,
    teacher_BL: torch.Tensor,
    counts_U: torch.Tensor,
    total_queries: int,
    settings: LossSettings,
    chunk_elements: int = 1 << 24,
) -> tuple[LossSums, torch.Tensor, torch.Tensor]:
    """Loss rows of this rank's queries against all passages, and the gradients of the embeddings.

    The loss is `(kl_weight · Σ KL + contrastive_weight · Σ InfoNCE) / total_queries`, with the denominator of the whole
    global batch, so that gradients of all ranks simply add up. Similarities are computed for a chunk of queries at a
    time: memory is `chunk_elements` floats, whatever Q × U is.

    Args:
        query_BD: (B, d) float32 embeddings of this rank's queries.
        passage_UD: (U, d) float32 embeddings of every passage of the batch.
        slots_BL: (B, L) int64 positions in 0…U−1, −1 where a list is shorter.
        teacher_BL: (B, L) float32 normalised teacher scores.
        counts_U: (U,) how many slots of the batch hold each passage.
        total_queries: Q, over all ranks.

    Returns:
        the sums for the log, the (B, d) gradient of the queries, and the (U, d) gradient of the passages.
    """
    query_gradient = torch.zeros_like(query_BD)
    passages = passage_UD.detach().requires_grad_()
    sums = [torch.zeros((), dtype=torch.float64, device=query_BD.device) for _ in range(2)]
    log_count = counts_U.to(torch.float32).log() if settings.weight_by_count else None
    rows = max(1, chunk_elements // max(1, passage_UD.shape[0]))
    for start in range(0, query_BD.shape[0], rows):
        block = slice(start, start + rows)
        queries = query_BD[block].detach().requires_grad_()
        filled = slots_BL[block] >= 0
        slots = slots_BL[block].clamp(min=0)
        similarity = queries @ passages.T
        loss = similarity.new_zeros(())
        if settings.kl_weight:
            kl = listwise_kl(similarity.gather(1, slots), teacher_BL[block], filled, settings).sum()
            loss = loss + settings.kl_weight * kl
            sums[0] += kl.detach()
        if settings.contrastive_weight:
            nce = contrastive(similarity, slots, teacher_BL[block], filled, log_count, settings).sum()
            loss = loss + settings.contrastive_weight * nce
            sums[1] += nce.detach()
        (loss / total_queries).backward()
        assert queries.grad is not None
        query_gradient[block] = queries.grad
    passage_gradient = passages.grad if passages.grad is not None else torch.zeros_like(passages)
    return LossSums(*sums), query_gradient, passage_gradient
