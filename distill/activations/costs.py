"""What the activations of a micro-batch cost in bytes, measured in a trial, and what a step keeps of them.

No formula of an architecture is needed: autograd tells what a graph holds, and a trial run what outputs there are.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from distill.activations.reuse import Output, TrialRun


class GraphBytes:
    """Bytes that a graph holds: every storage once, however many tensors are views of it."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._weights = {weight.untyped_storage().data_ptr() for weight in module.parameters()}
        self.bytes = 0

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Adds what the forward pass inside keeps. Weights are not counted, since they exist anyway."""
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._weights:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # an output that its own node saved would keep the graph alive for ever

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
        self.bytes += sum(sizes.values())


@dataclass(frozen=True)
class Keep:
    """What a step keeps of the first runs of its micro-batches.

    Attributes:
        graphs_from: number of the first micro-batch whose graph is kept; all after it are kept too.
        numbers: operations whose outputs are kept of the micro-batches before it.
        graph_bytes: size of all those graphs.
        output_bytes: size of all those outputs.
        reused: share of the kept outputs in all outputs of a micro-batch, by bytes.
    """

    graphs_from: int
    numbers: frozenset[int] = frozenset()
    graph_bytes: int = 0
    output_bytes: int = 0
    reused: float = 0.0


@dataclass(frozen=True)
class Costs:
    """What the activations of one micro-batch took.

    Attributes:
        tokens: tokens that it computed.
        graph: bytes of its graph; None where graphs cannot be kept.
        outputs: outputs of its reusable operations.
    """

    tokens: int
    graph: int | None
    outputs: list[Output]

    def keep(self, computed: list[int], most: int) -> Keep:
        """What to keep, in `most` bytes, of micro-batches that compute so many tokens each.

        All graphs if they fit. Else the most expensive outputs of all micro-batches, and if every output fits, the
        graphs of as many of the last micro-batches as then fit.
        """
        times = sum(computed) / self.tokens
        if self.graph is not None and self.graph * times <= most:
            return Keep(0, graph_bytes=math.ceil(self.graph * times))
        reusable = sum(output.bytes for output in self.outputs if output.unchanged)
        numbers = most_expensive(self.outputs, most / times)
        chosen = sum(self.outputs[number].bytes for number in numbers)
        first, left = len(computed), most - chosen * times
        if self.graph is not None and chosen == reusable:
            while first and (left := left - (self.graph - chosen) * computed[first - 1] / self.tokens) >= 0:
                first -= 1
        return Keep(
            first, numbers,
            graph_bytes=math.ceil((self.graph or 0) * sum(computed[first:]) / self.tokens),
            output_bytes=math.ceil(chosen * sum(computed[:first]) / self.tokens),
            reused=chosen / max(1, sum(output.bytes for output in self.outputs)),
        )  # fmt: skip


def most_expensive(outputs: list[Output], most: float) -> frozenset[int]:
    """Numbers of the operations whose outputs save most time within `most` bytes: those with the longest sums first."""
    chosen: set[int] = set()
    for number in sorted(range(len(outputs)), key=lambda number: -outputs[number].summed):
        if not outputs[number].unchanged:
            continue
        most -= outputs[number].bytes
        if most < 0:
            break
        chosen.add(number)
    return frozenset(chosen)


def measure(module: torch.nn.Module, features: dict[str, Any], tokens: int, graph: bool) -> Costs:
    """Costs of a micro-batch, which is encoded once for it.

    Args:
        module: the encoder.
        features: its arguments, for a micro-batch that computes `tokens` tokens.
        tokens: number of those tokens.
        graph: whether graphs can be kept.
    """
    size, trial = GraphBytes(module), TrialRun()
    with trial, size.counting() if graph else torch.no_grad():
        module(**features)
    return Costs(tokens, size.bytes if graph else None, trial.outputs())
