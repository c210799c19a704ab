"""The loss of a global batch and its gradients: blocks of queries against every passage, one chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from distill.losses.contrastive import info_nce
from distill.losses.listwise import kl_divergence, lambda_loss
from distill.losses.pairwise import margin_mse, ranknet

ListLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

LIST_LOSSES: dict[str, ListLoss] = {
    "kl": kl_divergence,
    "margin_mse": margin_mse,
    "ranknet": ranknet,
    "lambdaloss": lambda_loss,
}

CHUNK_ELEMENTS = 1 << 24  # number of similarities that are computed at once


@dataclass(frozen=True)
class LossSettings:
    """Settings of the loss: fields of the recipe's `training`, with CADET's values (arXiv 2505.19274) as defaults."""

    loss: str = "kl"
    list_weight: float = 1.0
    student_temperature: float = 0.05
    teacher_temperature: float = 0.3
    contrastive_weight: float = 0.1
    contrastive_temperature: float = 0.01
    contrastive_margin: float = 0.6
    weight_by_count: bool = False
    matryoshka: tuple[int, ...] = ()

    @property
    def weights(self) -> tuple[float, float]:
        """Weights of the list loss and of InfoNCE; with `loss: infonce` they are 0 and 1."""
        return (0.0, 1.0) if self.loss == "infonce" else (self.list_weight, self.contrastive_weight)


def list_loss(
    similarity_BL: torch.Tensor, teacher_BL: torch.Tensor, filled_BL: torch.Tensor, settings: LossSettings
) -> torch.Tensor:
    """(B,) loss of each list, by the function that `settings.loss` names; the KL divergence if it names InfoNCE.

    Args:
        similarity_BL: (B, L) float32 similarities of a query and the passages of its list.
        teacher_BL: (B, L) float32 normalised teacher scores.
        filled_BL: (B, L) bool, False where a list is shorter than L.
        settings: loss and temperatures.
    """
    student, teacher = similarity_BL / settings.student_temperature, teacher_BL / settings.teacher_temperature
    # InfoNCE alone has no loss over lists; the dev evaluation then reports KL
    return LIST_LOSSES["kl" if settings.loss == "infonce" else settings.loss](student, teacher, filled_BL)


@dataclass(frozen=True)
class LossSums:
    """Sums of the list loss and of InfoNCE over the queries of this rank, float64 scalars."""

    listed: torch.Tensor
    contrastive: torch.Tensor


def loss_and_gradients(
    query_BD: torch.Tensor,
    passage_UD: torch.Tensor,
    slots_BL: torch.Tensor,
    teacher_BL: torch.Tensor,
    counts_U: torch.Tensor,
    total_queries: int,
    settings: LossSettings,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[LossSums, torch.Tensor, torch.Tensor]:
    """Loss of this rank's queries against all passages, and the gradients of the embeddings.

    The loss is `(list_weight · Σ list loss + contrastive_weight · Σ InfoNCE) / total_queries`. The denominator counts
    the queries of the global batch, so the gradients of all ranks are added without a factor. Similarities are computed
    for a chunk of queries at a time, so memory is a small multiple of `chunk_elements` floats, whatever Q × U is. With
    `matryoshka` dimensions the loss is the mean over the whole embeddings and the embeddings cut at each dimension and
    renormalised (Kusupati et al., arXiv 2205.13147).

    Args:
        query_BD: (B, d) float32 embeddings of this rank's queries.
        passage_UD: (U, d) float32 embeddings of every passage of the batch.
        slots_BL: (B, L) int64 positions in 0…U−1 of the passages of each list, −1 where a list is shorter than L.
        teacher_BL: (B, L) float32 normalised teacher scores.
        counts_U: (U,) number of slots of the global batch that hold each passage.
        total_queries: Q, number of queries of the global batch, over all ranks.
        settings: losses, weights, temperatures and dimensions.
        chunk_elements: number of similarities that are computed at once.

    Returns:
        the sums for the log, the (B, d) gradient of the queries, and the (U, d) gradient of the passages.
    """
    query_gradient = torch.zeros_like(query_BD)
    passages = passage_UD.detach().requires_grad_()
    sums = torch.zeros(2, dtype=torch.float64, device=query_BD.device)
    log_count = counts_U.to(torch.float32).log() if settings.weight_by_count else None
    dimensions = (*settings.matryoshka, passages.shape[1])
    pairs = slots_BL.shape[1] ** 2  # pairs of a list
    rows = max(1, chunk_elements // max(1, pairs, passages.shape[0]))
    for start in range(0, query_BD.shape[0], rows):
        block = slice(start, start + rows)
        queries = query_BD[block].detach().requires_grad_()
        filled = slots_BL[block] >= 0
        slots = slots_BL[block].clamp(min=0)
        for dimension in dimensions:
            similarity = cut(queries, dimension) @ cut(passages, dimension).T
            parts = _block(similarity, slots, teacher_BL[block], filled, log_count, settings)
            loss = settings.weights[0] * parts[0] + settings.weights[1] * parts[1]
            (loss / (total_queries * len(dimensions))).backward()
            sums += torch.stack([part.detach().double() for part in parts]) / len(dimensions)
        assert queries.grad is not None
        query_gradient[block] = queries.grad
    passage_gradient = passages.grad if passages.grad is not None else torch.zeros_like(passages)
    return LossSums(sums[0], sums[1]), query_gradient, passage_gradient


def cut(embedding: torch.Tensor, dimension: int) -> torch.Tensor:
    """(n, dimension) first numbers of (n, d) embeddings, renormalised; unchanged if `dimension` is d."""
    return embedding if dimension == embedding.shape[1] else F.normalize(embedding[:, :dimension], dim=1)


def _block(
    similarity: torch.Tensor,
    slots: torch.Tensor,
    teacher: torch.Tensor,
    filled: torch.Tensor,
    log_count: torch.Tensor | None,
    settings: LossSettings,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of both losses over a block of queries; a loss of weight 0 is not computed."""
    list_weight, contrastive_weight = settings.weights
    listed = contrastive = similarity.new_zeros(())
    if list_weight:
        listed = list_loss(similarity.gather(1, slots), teacher, filled, settings).sum()
    if contrastive_weight:
        logits = similarity / settings.contrastive_temperature
        contrastive = info_nce(logits, slots, teacher, filled, log_count, settings.contrastive_margin).sum()
    return listed, contrastive
