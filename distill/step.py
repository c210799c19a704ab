"""One training step: every unique passage of the global batch is encoded once, somewhere.

    encode own share → gather embeddings → loss rows of own queries → reduce-scatter gradients → backward of own share

A query's loss rows live on the rank that encodes it, so queries need no gather: a step has one all-gather and one
reduce-scatter of passage embeddings, one reduction of the parameters' gradients, and one of the two logged sums.

Contract: after DeepSpeed's averaging, the parameter gradient equals that of one process holding the whole batch. The
loss has the global batch's denominator, so the ranks' gradients must be *summed*; DeepSpeed divides by the world size,
and `_push_back` is the one place that multiplies by it.

Memory is bounded as in GradCache (arXiv 2101.06983): activations of the first `activation_tokens` padded tokens are
kept, the other micro-batches are encoded without a graph first and again, with one, when their gradient is known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from distill.batches import Share, StepPlan
from distill.encoder import embed
from distill.gather import gather_ragged, reduce_scatter_ragged
from distill.losses import LossSettings, loss_and_gradients
from distill.tokens import TokenFile, padded_length

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class Student(nn.Module):
    """The encoder as DeepSpeed trains it: float32 weights, the transformer under autocast, no dropout.

    Args:
        model: sentence-transformer with float32 weights.
        device: "cpu" or "cuda…".
        dtype: of the transformer's arithmetic.
    """

    def __init__(self, model: SentenceTransformer, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.device = device
        self.dtype = dtype

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, d) float32 embeddings of (B, T) token ids."""
        if self.device == "cpu":
            # torch's fused attention is the faster forward on CPUs, plain matrix products the faster backward.
            attention = "eager" if torch.is_grad_enabled() else "sdpa"
            transformer = self.model.transformers_model
            if transformer is not None and transformer.config._attn_implementation != attention:
                transformer.set_attn_implementation(attention)
        features = {"input_ids": input_ids, "attention_mask": attention_mask, "modality": "text"}
        return embed(self.model, features, self.device, self.dtype)


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one token file for one forward pass, and where their embeddings stand in this rank's share."""

    tokens: TokenFile
    rows: np.ndarray
    places: slice
    is_query: bool
    weight: float = 1.0

    @property
    def padded_tokens(self) -> int:
        """Tokens of the forward pass, padding included."""
        return padded_length(int(self.tokens.lengths[self.rows].max())) * len(self.rows)


@dataclass(frozen=True)
class StepResult:
    """What a step reports: mean losses over the global batch and what this rank did."""

    loss: float
    listed: float
    contrastive: float
    tokens: int
    padded_tokens: int
    recomputed_tokens: int


class Stepper:
    """Runs steps on a DeepSpeed engine whose module is a `Student`.

    Args:
        engine: the DeepSpeed engine; its accumulation boundary is set here.
        query_tokens, passage_tokens: token files of the lists' queries and of the corpus.
        settings: temperatures and weights.
        activation_tokens: padded tokens whose activations are kept; 0 recomputes everything.
        pad_id: token id of padding.
    """

    def __init__(
        self,
        engine: Any,
        query_tokens: TokenFile,
        passage_tokens: TokenFile,
        settings: LossSettings,
        activation_tokens: int,
        pad_id: int,
    ) -> None:
        self.engine = engine
        self.query_tokens = query_tokens
        self.passage_tokens = passage_tokens
        self.settings = settings
        # Under ZeRO 3 every forward gathers parameters: ranks must agree on the order of all of them.
        self.activation_tokens = 0 if engine.zero_optimization_stage() == 3 else activation_tokens
        self.pad_id = pad_id
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1

    def run(self, plan: StepPlan, teacher: np.ndarray) -> StepResult:
        """Accumulates the gradient of one global batch; the caller steps the optimizer.

        Args:
            plan: the step, the same on every rank.
            teacher: (Q, L) float32 normalised teacher scores in the plan's order of queries.
        """
        query_share, passage_share = plan.query_shares[self.rank], plan.passage_shares[self.rank]
        work = self._micro_batches(plan)
        kept, queries, passages = self._encode(work, query_share.size, passage_share.size)
        padded = sum(micro.padded_tokens for micro in work)
        recomputed = padded - sum(work[index].padded_tokens for index in kept)
        sizes = [share.size for share in plan.passage_shares]
        everyone = gather_ragged(passages, sizes)

        mine = slice(query_share.start, query_share.stop)
        device = everyone.device
        sums, query_gradient, passage_gradient = loss_and_gradients(
            queries,
            everyone,
            torch.from_numpy(plan.slots[mine]).to(device),
            torch.from_numpy(np.ascontiguousarray(teacher[mine], dtype=np.float32)).to(device),
            torch.from_numpy(plan.counts).to(device),
            len(plan.queries),
            self.settings,
        )
        own_gradient = reduce_scatter_ragged(passage_gradient, sizes, self.rank)
        self._push_back(work, kept, query_gradient, own_gradient)

        totals = torch.stack([sums.listed, sums.contrastive]) / len(plan.queries)
        if self.world_size > 1:
            dist.all_reduce(totals)
        listed, contrastive = totals.tolist()
        for_list, for_contrast = self.settings.weights
        return StepResult(
            loss=for_list * listed + for_contrast * contrastive,
            listed=listed,
            contrastive=contrastive,
            tokens=sum(int(micro.tokens.lengths[micro.rows].sum()) for micro in work if micro.weight),
            padded_tokens=padded,
            recomputed_tokens=recomputed,
        )

    def _micro_batches(self, plan: StepPlan) -> list[MicroBatch]:
        """This rank's forward passes. Every rank gets equally many: missing ones are one row of weight zero."""
        work: list[MicroBatch] = []
        for is_query, tokens, rows, shares in (
            (True, self.query_tokens, plan.queries, plan.query_shares),
            (False, self.passage_tokens, plan.passages, plan.passage_shares),
        ):
            share: Share = shares[self.rank]
            for positions in share.micro_batches:
                places = slice(int(positions[0]) - share.start, int(positions[-1]) - share.start + 1)
                work.append(MicroBatch(tokens, rows[positions], places, is_query))
            for _ in range(max(len(other.micro_batches) for other in shares) - len(share.micro_batches)):
                work.append(MicroBatch(tokens, rows[-1:], slice(0, 0), is_query, weight=0.0))
        return work

    def _encode(
        self, work: list[MicroBatch], queries: int, passages: int
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Embeddings of this rank's share, (queries, d) and (passages, d), and the graphs that the budget keeps."""
        kept: dict[int, torch.Tensor] = {}
        budget = self.activation_tokens
        parts: list[torch.Tensor] = []
        for index, micro in enumerate(work):
            keep = micro.padded_tokens <= budget
            with contextlib.nullcontext() if keep else torch.no_grad():
                embedding = self._forward(micro)
            if keep:
                budget -= micro.padded_tokens
                kept[index] = embedding
            parts.append(embedding.detach())
        dimension = parts[0].shape[1]
        embeddings = [parts[0].new_zeros(queries, dimension), parts[0].new_zeros(passages, dimension)]
        for micro, part in zip(work, parts, strict=True):
            if micro.weight:
                embeddings[0 if micro.is_query else 1][micro.places] = part
        return kept, embeddings[0], embeddings[1]

    def _forward(self, micro: MicroBatch) -> torch.Tensor:
        ids, mask = micro.tokens.padded(micro.rows, self.pad_id)
        return self.engine(ids.to(self.engine.device), mask.to(self.engine.device))

    def _push_back(
        self, work: list[MicroBatch], kept: dict[int, torch.Tensor], queries: torch.Tensor, passages: torch.Tensor
    ) -> None:
        """Backward of every micro-batch with its known embedding gradient; gradients are reduced with the last one."""
        order = sorted(range(len(work)), key=lambda index: (index not in kept, -index))
        with self._one_reduction():
            for number, index in enumerate(order):
                micro = work[index]
                embedding = kept.pop(index) if index in kept else self._forward(micro)
                if micro.weight:
                    gradient = (queries if micro.is_query else passages)[micro.places]
                    surrogate = (embedding * gradient).sum() * self.world_size
                else:
                    surrogate = embedding.sum() * 0.0
                if self.engine.zero_optimization_stage() == 0:
                    self.engine.set_gradient_accumulation_boundary(number == len(order) - 1)
                self.engine.backward(surrogate, scale_wrt_gas=False)

    @contextlib.contextmanager
    def _one_reduction(self) -> Iterator[None]:
        """Gradients stay local until the step's last backward, then are reduced once, under every ZeRO stage."""
        if self.engine.zero_optimization_stage() == 0:
            yield
        else:
            with self.engine.coalesce_grad_reduction():
                yield
            self.engine.set_gradient_accumulation_boundary(True)
