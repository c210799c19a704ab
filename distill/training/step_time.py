"""How long a training step takes on W ranks, on paper: tokens, the loss, three collectives, the optimizer.

Parts are added, nothing overlaps, as in the trainer. `docs/scaling.md` has the formulas, the sources of the machines'
numbers, and what was measured against them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FLOAT = 4  # bytes; embeddings and gradients travel in float32
LOSS_PASSES = 24  # times that InfoNCE and its gradient read or write a chunk of similarities


@dataclass(frozen=True)
class Machine:
    """What one rank has, and what lies between ranks.

    Attributes:
        flops: floating-point operations a second that the encoder reaches, not the peak.
        loss_flops: the same of float32 matrix products.
        memory: bytes a second of one rank's memory.
        node_ranks: ranks of a node.
        inside, outside: bytes a second of a rank's link within a node, and between nodes.
        latency: seconds of a message between two ranks.
        places: ranks that can compute at the same time, where ranks share cores; None: all of them.
    """

    flops: float
    loss_flops: float
    memory: float
    node_ranks: int
    inside: float
    outside: float
    latency: float
    places: int | None = None


@dataclass(frozen=True)
class Work:
    """One global batch.

    Attributes:
        queries, passages: queries of the batch, Q, and unique passages of their lists, U.
        query_tokens, passage_tokens: mean tokens of each, padding included.
        weights: of the matrices that every token goes through (no embedding tables).
        parameters: whose gradients are reduced; of a student with adapters, the adapters'.
        layers, hidden: of the encoder.
        dimension: of an embedding, d.
        recomputed: share of tokens whose forward pass is done twice.
        imbalance: tokens of the fullest rank over the mean.
    """

    queries: int
    passages: float
    query_tokens: float
    passage_tokens: float
    weights: float
    parameters: float
    layers: int
    hidden: int
    dimension: int
    recomputed: float = 0.0
    imbalance: float = 1.0


@dataclass(frozen=True)
class StepTime:
    """Seconds of the parts of a step."""

    encode: float
    loss: float
    gather: float
    reduce: float
    optimizer: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.encode + self.loss + self.gather + self.reduce + self.optimizer


def unique_passages(slots: int, corpus: int) -> float:
    """Different passages that `slots` uniform draws out of a corpus name, on average; topics name fewer."""
    return corpus * -math.expm1(slots * math.log1p(-1 / corpus)) if corpus > 1 else 1.0


def token_flops(work: Work, length: float) -> float:
    """Operations for one token of a text of `length` tokens, forward and backward (Kaplan et al., arXiv 2001.08361).

    Six a weight, and for attention twelve a layer, dimension and token that it looks at; a repeated forward pass is a
    third more.
    """
    return (6 * work.weights + 12 * work.layers * work.hidden * length) * (1 + work.recomputed / 3)


def step_time(work: Work, machine: Machine, ranks: int) -> StepTime:
    """The model: a step of `work` on `ranks` ranks of `machine`."""
    at_once = min(ranks, machine.places or ranks)
    operations = sum(
        count * length * token_flops(work, length)
        for count, length in ((work.queries, work.query_tokens), (work.passages, work.passage_tokens))
    )
    similarities = work.queries * work.passages
    loss = similarities * (6 * work.dimension / machine.loss_flops + LOSS_PASSES * FLOAT / machine.memory)
    embeddings = work.passages * work.dimension * FLOAT
    return StepTime(
        encode=operations * work.imbalance / (at_once * machine.flops),
        loss=loss / at_once,
        gather=2 * ring(embeddings, machine, ranks),  # the gather and its adjoint
        reduce=2 * ring(work.parameters * FLOAT, machine, ranks),  # a reduce-scatter and a gather of them
        optimizer=7 * FLOAT * work.parameters / machine.memory * ranks / at_once,  # reads four numbers, writes three
    )


def ring(size: float, machine: Machine, ranks: int) -> float:
    """Seconds in which every rank gets `size` bytes of which each holds a part: W − 1 messages of size / W each."""
    if ranks == 1:
        return 0.0
    bandwidth = machine.inside if ranks <= machine.node_ranks else machine.outside
    return (ranks - 1) * (size / ranks / bandwidth + machine.latency)


def efficiency(work: Work, machine: Machine, ranks: int) -> float:
    """Speed on `ranks` ranks over `ranks` times the speed on one."""
    return step_time(work, machine, 1).total / (ranks * step_time(work, machine, ranks).total)
