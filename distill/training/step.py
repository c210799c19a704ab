"""One training step: every unique passage of the global batch is encoded once, somewhere.

    encode own share → gather embeddings → loss rows of own queries → reduce-scatter gradients → backward of own share

A query's loss rows live on the rank that encodes it, so queries need no gather: a step has one all-gather and one
reduce-scatter of passage embeddings, one reduction of the parameters' gradients, and one of three numbers: the two
logged sums, and how many ranks are asked to stop.

Contract: after DeepSpeed's averaging, the parameter gradient equals that of one process holding the whole batch. The
loss has the global batch's denominator, so the ranks' gradients must be *summed*; DeepSpeed divides by the world size,
and `_push_back` is the one place that multiplies by it.

Memory is bounded as in GradCache (arXiv 2101.06983): where `activation_bytes` do not hold the graphs of all
micro-batches, they are encoded without a graph first and again, with one, when their gradient is known. What is dearest
to compute twice is kept from the first time (`distill/activations/recompute.py`), and of whole graphs as many as then
have room. The gradient is the same to the bit, whatever is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from distill.activations.arena import Arena
from distill.activations.budget import Costs, Keep, costs_of
from distill.activations.recompute import Keeping
from distill.encoders.layout import Layout
from distill.encoders.tokens import TokenFile
from distill.losses.batch import LossSettings, loss_and_gradients
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
        weight: 0 for a pass that is there for company only.
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
class _First:
    """What is kept of a micro-batch's first run: an embedding with its graph, or the outputs of some calls."""

    embedding: torch.Tensor | None = None
    calls: Keeping | None = None


@dataclass(frozen=True)
class StepResult:
    """What a step reports: mean losses over the global batch and what this rank did.

    `recomputed_tokens` were encoded twice; the second time the share `recalled` of the outputs of products and of
    attention, by bytes, was that of the first.
    """

    loss: float
    listed: float
    contrastive: float
    tokens: int
    computed_tokens: int
    recomputed_tokens: int
    recalled: float
    stop: bool


class Stepper:
    """Runs steps on a DeepSpeed engine whose module is a `EncoderModule`.

    Args:
        engine: the DeepSpeed engine; its accumulation boundary is set here.
        query_tokens, passage_tokens: token files of the lists' queries and of the corpus.
        settings: temperatures and weights.
        activation_bytes: of the activations that are kept, beside one micro-batch's; 0 recomputes everything.
        layout: of the micro-batches.
    """

    def __init__(
        self,
        engine: Any,
        query_tokens: TokenFile,
        passage_tokens: TokenFile,
        settings: LossSettings,
        activation_bytes: int,
        layout: Layout,
    ) -> None:
        self.engine = engine
        self.query_tokens = query_tokens
        self.passage_tokens = passage_tokens
        self.settings = settings
        self.activation_bytes = activation_bytes
        self.layout = layout
        self._arena = Arena() if engine.device.type == "cpu" else None  # GPUs have an allocator of torch's
        self._costs: Costs | None = None
        self._keep = Keep(0)  # of the last step
        self._longest = 0  # tokens of the sequences that they were measured on
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1

    @property
    def step_bytes(self) -> int:
        """What the last step's activations took, and the next one will again, beside what is held between them."""
        one = (self._costs.graph if self._costs else None) or 0
        return one + self._keep.graph_bytes + (0 if self._arena else self._keep.output_bytes)

    def release(self) -> None:
        """Gives back the memory that is held from one step to the next; a step after that takes it again."""
        if self._arena:
            self._arena.release()

    def prepare(self, plan: StepPlan, teacher: np.ndarray) -> Prepared:
        """Makes the tensors of a step; may run in a thread while the step before is computed.

        Args:
            plan: the step, the same on every rank.
            teacher: (Q, L) float32 normalised teacher scores in the plan's order of queries.
        """
        return Prepared(plan, np.ascontiguousarray(teacher, dtype=np.float32), self._micro_batches(plan))

    def reserve(self, prepared: Prepared) -> Keep:
        """Takes the memory for what first runs leave to second ones, as a step itself does, and says what they leave.

        Raises:
            RunError: the system has not so much.
        """
        work = prepared.work
        self._keep = self._measured(work).keep([micro.computed for micro in work], self.activation_bytes)
        if self._arena:
            self._arena.start(self._keep.output_bytes)
        return self._keep

    def run(self, prepared: Prepared, stop: bool = False) -> StepResult:
        """Accumulates the gradient of one global batch; the caller steps the optimizer.

        Args:
            prepared: this rank's part.
            stop: whether this rank is asked to stop; `StepResult.stop` says whether any is.
        """
        plan, teacher, work = prepared.plan, prepared.teacher, prepared.work
        query_share, passage_share = plan.query_shares[self.rank], plan.passage_shares[self.rank]
        keep = self.reserve(prepared)
        firsts, queries, passages = self._encode(work, keep, query_share.size, passage_share.size)
        sizes = [share.size for share in plan.passage_shares]
        everyone = gather_ragged(passages, sizes)

        mine = slice(query_share.start, query_share.stop)
        device = everyone.device
        sums, query_gradient, passage_gradient = loss_and_gradients(
            queries,
            everyone,
            torch.from_numpy(plan.slots[mine]).to(device),
            torch.from_numpy(teacher[mine]).to(device),
            torch.from_numpy(plan.counts).to(device),
            len(plan.queries),
            self.settings,
        )
        own_gradient = reduce_scatter_ragged(passage_gradient, sizes, self.rank)
        self._push_back(work, firsts, query_gradient, own_gradient)

        count = len(plan.queries)
        totals = torch.stack([sums.listed / count, sums.contrastive / count, sums.listed.new_tensor(float(stop))])
        if self.world_size > 1:
            dist.all_reduce(totals)
        listed, contrastive, stopping = totals.tolist()
        for_list, for_contrast = self.settings.weights
        return StepResult(
            loss=for_list * listed + for_contrast * contrastive,
            listed=listed,
            contrastive=contrastive,
            tokens=sum(micro.tokens for micro in work if micro.weight),
            computed_tokens=sum(micro.computed for micro in work),
            recomputed_tokens=sum(micro.computed for micro in work[: keep.graphs_from]),
            recalled=keep.recalled,
            stop=stopping > 0,
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

    def _encode(
        self, work: list[MicroBatch], keep: Keep, queries: int, passages: int
    ) -> tuple[list[_First], torch.Tensor, torch.Tensor]:
        """Embeddings of this rank's share, (queries, d) and (passages, d), and what is kept of each micro-batch."""
        firsts, parts = [], []
        hold = self._arena.hold if self._arena else torch.Tensor.detach
        for index, micro in enumerate(work):
            if index >= keep.graphs_from:
                embedding = self.engine(**micro.features)
                firsts.append(_First(embedding=embedding))
            else:
                calls = Keeping(keep.numbers, hold) if keep.numbers else None
                with torch.no_grad():
                    embedding = self.engine(calls=calls, **micro.features)
                firsts.append(_First(calls=calls))
            parts.append(embedding.detach())
        dimension = parts[0].shape[1]
        embeddings = [parts[0].new_zeros(queries, dimension), parts[0].new_zeros(passages, dimension)]
        for micro, part in zip(work, parts, strict=True):
            if micro.weight:
                embeddings[0 if micro.is_query else 1][micro.places] = part
        return firsts, embeddings[0], embeddings[1]

    def _measured(self, work: list[MicroBatch]) -> Costs:
        """What a token's activations take, looked at in the first step and where sequences become longer."""
        largest = max(work, key=lambda micro: (micro.longest, micro.computed))
        # Under ZeRO 3 every forward gathers parameters: ranks must agree on the order of all of them.
        divided = self.engine.zero_optimization_stage() == 3
        if self._costs is None or (largest.longest > self._longest and not divided):
            self._costs = costs_of(self.engine.module, largest.features, largest.computed, graph=not divided)
            self._longest = largest.longest
        return self._costs

    def _push_back(
        self, work: list[MicroBatch], firsts: list[_First], queries: torch.Tensor, passages: torch.Tensor
    ) -> None:
        """Backward of every micro-batch with its known embedding gradient; gradients are reduced with the last one.

        The last is the first: graphs are kept of the last ones, and go before others are made. The order is the same
        whatever is kept, for sums in another order differ in their last bits.
        """
        with self._one_reduction():
            for index in reversed(range(len(work))):
                micro, first = work[index], firsts.pop()
                embedding = first.embedding
                if embedding is None:
                    calls = first.calls.recalling() if first.calls else None
                    embedding = self.engine(calls=calls, **micro.features)
                if micro.weight:
                    gradient = (queries if micro.is_query else passages)[micro.places]
                    surrogate = (embedding * gradient).sum() * self.world_size
                else:
                    surrogate = embedding.sum() * 0.0
                if self.engine.zero_optimization_stage() == 0:
                    self.engine.set_gradient_accumulation_boundary(index == 0)
                self.engine.backward(surrogate, scale_wrt_gas=False)
                del first, embedding, surrogate  # before the next one is made

    @contextlib.contextmanager
    def _one_reduction(self) -> Iterator[None]:
        """Gradients stay local until the step's last backward, then are reduced once, under every ZeRO stage."""
        if self.engine.zero_optimization_stage() == 0:
            yield
        else:
            with self.engine.coalesce_grad_reduction():
                yield
            self.engine.set_gradient_accumulation_boundary(True)
