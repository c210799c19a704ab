"""One training step: every unique passage of the global batch is encoded once, somewhere.

    encode own share → gather embeddings → loss rows of own queries → reduce-scatter gradients → backward of own share

A query's loss rows live on the rank that encodes it, so queries need no gather: a step has one all-gather and one
reduce-scatter of passage embeddings, one reduction of the parameters' gradients, and one of three numbers: the two
logged sums, and how many ranks are asked to stop.

Contract: after DeepSpeed's averaging, the parameter gradient equals that of one process holding the whole batch. The
loss has the global batch's denominator, so the ranks' gradients must be *summed*; DeepSpeed divides by the world size,
and `_backward` is the one place that multiplies by it.

Memory is bounded: `Activations` runs every micro-batch a first time for its embeddings and a second time for its
gradients, and keeps of the first run what fits (`distill/activations/activations.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from distill.activations.activations import Activations
from distill.encoders.layout import Layout
from distill.encoders.tokens import TokenFile
from distill.losses.batch import LossSettings, LossSums, loss_and_gradients
from distill.training.batches import Share, StepPlan
from distill.training.gather import gather_ragged, reduce_scatter_ragged


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass, and where its embeddings stand in this rank's share.

    Attributes:
        features: of a `Layout`, on the CPU.
        tokens: of its sequences.
        computed: tokens that the pass computes: with padding, if there is any.
        places: of its embeddings, among the queries or the passages.
        is_query: which of the two.
        longest: tokens of its longest sequence.
        weight: 0 for an empty micro-batch, which keeps the ranks in step.
    """

    features: dict[str, Any]
    tokens: int
    computed: int
    places: slice
    is_query: bool
    longest: int
    weight: float = 1.0


@dataclass(frozen=True)
class Prepared:
    """A plan with the tensors of this rank's forward passes, and (Q, L) teacher scores in the plan's order."""

    plan: StepPlan
    teacher: np.ndarray
    work: list[MicroBatch]


@dataclass(frozen=True)
class StepResult:
    """What a step reports.

    Attributes:
        loss, listed, contrastive: means over the global batch; the loss is the weighted sum of the other two.
        tokens: of this rank's sequences.
        computed_tokens: tokens that its forward passes computed, with padding.
        recomputed_tokens: those that were computed twice.
        reused: share of the outputs of products and of attention, by bytes, that their second run took from the first.
        stop: whether any rank is asked to stop.
        is_due: whether any rank finds that a checkpoint is due.
    """

    loss: float
    listed: float
    contrastive: float
    tokens: int
    computed_tokens: int
    recomputed_tokens: int
    reused: float
    stop: bool
    is_due: bool


class Stepper:
    """Runs steps on a DeepSpeed engine whose module is an `EncoderModule`.

    Args:
        engine: the DeepSpeed engine; its accumulation boundary is set here.
        query_tokens, passage_tokens: token files of the lists' queries and of the corpus.
        settings: temperatures and weights.
        activations: run the forward passes.
        layout: of the micro-batches.
    """

    def __init__(
        self,
        engine: Any,
        query_tokens: TokenFile,
        passage_tokens: TokenFile,
        settings: LossSettings,
        activations: Activations,
        layout: Layout,
    ) -> None:
        self.engine = engine
        self.query_tokens = query_tokens
        self.passage_tokens = passage_tokens
        self.settings = settings
        self.activations = activations
        self.layout = layout
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1

    def prepare(self, plan: StepPlan, teacher: np.ndarray) -> Prepared:
        """Makes the tensors of a step; may run in a thread while the step before is computed.

        Args:
            plan: the step, the same on every rank.
            teacher: (Q, L) float32 normalised teacher scores in the plan's order of queries.
        """
        return Prepared(plan, np.ascontiguousarray(teacher, dtype=np.float32), self._micro_batches(plan))

    def run(self, prepared: Prepared, stop: bool = False, is_due: bool = False) -> StepResult:
        """Accumulates the gradient of one global batch; the caller steps the optimizer.

        Args:
            prepared: this rank's part.
            stop: whether this rank is asked to stop; `StepResult.stop` says whether any is.
            is_due: whether a checkpoint is due by this rank's clock; `StepResult.is_due` says whether by any.
        """
        plan, work = prepared.plan, prepared.work
        keep = self.activations.plan(work)
        queries, passages = self._encode(work, plan.query_shares[self.rank].size, plan.passage_shares[self.rank].size)
        sizes = [share.size for share in plan.passage_shares]
        all_passages = gather_ragged(passages, sizes)
        sums, query_gradient, all_gradients = self._loss(prepared, queries, all_passages)
        passage_gradient = reduce_scatter_ragged(all_gradients, sizes, self.rank)
        self._backward(work, query_gradient, passage_gradient)
        listed, contrastive, stopping, due = self._over_ranks(sums, len(plan.queries), stop, is_due)
        for_list, for_contrast = self.settings.weights
        return StepResult(
            loss=for_list * listed + for_contrast * contrastive,
            listed=listed,
            contrastive=contrastive,
            tokens=sum(micro.tokens for micro in work if micro.weight),
            computed_tokens=sum(micro.computed for micro in work),
            recomputed_tokens=sum(micro.computed for micro in work[: keep.graphs_from]),
            reused=keep.reused,
            stop=stopping > 0,
            is_due=due > 0,
        )

    def _loss(
        self, prepared: Prepared, queries: torch.Tensor, all_passages: torch.Tensor
    ) -> tuple[LossSums, torch.Tensor, torch.Tensor]:
        """Loss rows of this rank's queries; gradients of its queries, and of the (U, d) passages of all ranks."""
        plan, device = prepared.plan, all_passages.device
        share = plan.query_shares[self.rank]
        own = slice(share.start, share.stop)
        return loss_and_gradients(
            queries,
            all_passages,
            torch.from_numpy(plan.slots[own]).to(device),
            torch.from_numpy(prepared.teacher[own]).to(device),
            torch.from_numpy(plan.counts).to(device),
            len(plan.queries),
            self.settings,
        )

    def _over_ranks(self, sums: LossSums, queries: int, stop: bool, is_due: bool) -> list[float]:
        """Mean list loss and mean InfoNCE over the global batch; how many ranks are asked to stop, or to save."""
        flags = [sums.listed.new_tensor(float(flag)) for flag in (stop, is_due)]
        totals = torch.stack([sums.listed / queries, sums.contrastive / queries, *flags])
        if self.world_size > 1:
            dist.all_reduce(totals)
        return totals.tolist()

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
                work.append(self._micro_batch(tokens, rows[positions], places, is_query))
            for _ in range(max(len(other.micro_batches) for other in shares) - len(share.micro_batches)):
                work.append(self._micro_batch(tokens, rows[-1:], slice(0, 0), is_query, weight=0.0))
        return work

    def _micro_batch(
        self, tokens: TokenFile, rows: np.ndarray, places: slice, is_query: bool, weight: float = 1.0
    ) -> MicroBatch:
        features, lengths = self.layout.features(tokens, rows), tokens.lengths[rows]
        if self.engine.device.type == "cuda":  # so that the copy to the device need not wait
            features = {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in features.items()}
        return MicroBatch(
            features, int(lengths.sum()), self.layout.size(lengths), places, is_query, int(lengths.max()), weight
        )

    def _encode(self, work: list[MicroBatch], queries: int, passages: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of this rank's share, (queries, d) and (passages, d), without a graph."""
        parts = [self.activations.first(micro) for micro in work]
        dimension = parts[0].shape[1]
        embeddings = [parts[0].new_zeros(queries, dimension), parts[0].new_zeros(passages, dimension)]
        for micro, part in zip(work, parts, strict=True):
            if micro.weight:
                embeddings[0 if micro.is_query else 1][micro.places] = part
        return embeddings[0], embeddings[1]

    def _backward(self, work: list[MicroBatch], queries: torch.Tensor, passages: torch.Tensor) -> None:
        """Backward of every micro-batch with its known embedding gradient; gradients are reduced with the last one.

        The order is the reverse one, whatever is kept: sums in another order differ in their last bits. Graphs are kept
        of the last micro-batches, and are freed before others are made.
        """
        with self._one_reduction():
            for index, micro in reversed(list(enumerate(work))):
                embedding = self.activations.second(micro)
                if micro.weight:
                    gradient = (queries if micro.is_query else passages)[micro.places]
                    surrogate = (embedding * gradient).sum() * self.world_size
                else:
                    surrogate = embedding.sum() * 0.0
                if self.engine.zero_optimization_stage() == 0:
                    self.engine.set_gradient_accumulation_boundary(index == 0)
                self.engine.backward(surrogate, scale_wrt_gas=False)
                del embedding, surrogate  # before the next one is made

    @contextlib.contextmanager
    def _one_reduction(self) -> Iterator[None]:
        """Gradients stay local until the step's last backward, then are reduced once, under every ZeRO stage."""
        if self.engine.zero_optimization_stage() == 0:
            yield
        else:
            with self.engine.coalesce_grad_reduction():
                yield
            self.engine.set_gradient_accumulation_boundary(True)
