"""The forward passes of a step: each is run once for its embeddings and once for its gradients, with what fits kept.

A graph that is kept makes the second run free. Where memory does not hold all graphs, a micro-batch is first run
without one, and run again with one when the gradient of its embeddings is known (GradCache, arXiv 2101.06983). The
most expensive outputs of the first run are then reused. The gradient is the same to the bit, whatever is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from distill.activations.arena import Arena
from distill.activations.costs import Costs, Keep, measure
from distill.activations.reuse import FirstRun, SecondRun

PUSHED_BACK = 1.3  # bytes of a pass that is pushed back, for each byte of its graph: with gradients of what it holds


class ForwardPass(Protocol):
    """One forward pass: `features` of its sequences, tokens `computed`, and tokens of the `longest` sequence."""

    @property
    def features(self) -> dict[str, Any]:
        """Arguments of the encoder."""
        ...

    @property
    def computed(self) -> int:
        """Tokens that the pass computes, with padding if there is any."""
        ...

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        ...


@dataclass(frozen=True)
class _Kept:
    """What is kept of a first run: an embedding with its graph, or the outputs of some operations by number."""

    embedding: torch.Tensor | None
    outputs: dict[int, torch.Tensor]


class Activations:
    """Runs the forward passes of steps: `plan` a step, `first` for each pass in order, `second` in reverse order.

    Args:
        forward: the encoder as it is trained, such as a DeepSpeed engine; takes a pass's features, returns (B, d).
        module: the encoder itself, for measuring.
        most_bytes: memory for what is kept, beside one pass's activations; 0 keeps nothing.
        room_bytes: memory for what is kept and one pass's activations together; None: there is room for both.
        graphs: whether graphs can be kept; under ZeRO 3 they cannot, and every rank must make the same passes.
        without: "reuse" keeps no outputs, "arena" keeps them where they were computed: for a bug hunt.
    """

    def __init__(
        self,
        forward: Callable[..., torch.Tensor],
        module: torch.nn.Module,
        most_bytes: int,
        *,
        room_bytes: int | None = None,
        graphs: bool = True,
        without: Collection[str] = (),
    ) -> None:
        self._forward, self._module = forward, module
        self.most_bytes, self._room, self._graphs = most_bytes, room_bytes, graphs
        self._reuse = "reuse" not in without
        on_cpu = next(module.parameters()).device.type == "cpu"
        self._arena = Arena() if on_cpu and "arena" not in without else None  # GPUs have an allocator of torch's
        self._costs: Costs | None = None
        self._measured_on = 0  # tokens of the longest sequence when costs were measured
        self._keep = Keep(0)
        self._stack: list[_Kept] = []

    @property
    def step_bytes(self) -> int:
        """Memory that the last step's activations took and the next step's will take, without what `release` frees."""
        one = (self._costs.graph if self._costs else None) or 0
        return one + self._keep.graph_bytes + (0 if self._arena else self._keep.output_bytes)

    def plan(self, work: list[Any]) -> Keep:
        """Decides what to keep of the passes of a step, and takes the memory for it.

        Args:
            work: every `ForwardPass` of the step, in order.

        Raises:
            RunError: the system has not so much memory.
        """
        self._stack.clear()
        costs = self._measured(work)
        most = self.most_bytes
        if self._room is not None and costs.graph is not None:
            most = min(most, max(0, int(self._room - PUSHED_BACK * costs.graph)))
        self._keep = costs.keep([micro.computed for micro in work], most)
        if self._arena:
            self._arena.start(self._keep.output_bytes)
        return self._keep

    def first(self, micro: ForwardPass) -> torch.Tensor:
        """(B, d) embeddings of the next pass, without a graph."""
        if len(self._stack) >= self._keep.graphs_from:
            embedding = self._forward(**micro.features)
            self._stack.append(_Kept(embedding, {}))
        else:
            run = FirstRun(self._keep.numbers, self._arena.hold if self._arena else torch.Tensor.detach)
            with run, torch.no_grad():
                embedding = self._forward(**micro.features)
            self._stack.append(_Kept(None, run.kept))
        return embedding.detach()

    def second(self, micro: ForwardPass) -> torch.Tensor:
        """(B, d) embeddings of the last pass that had no second run yet, with their graph."""
        kept = self._stack.pop()
        if kept.embedding is not None:
            return kept.embedding
        with SecondRun(kept.outputs):
            return self._forward(**micro.features)

    def release(self) -> None:
        """Gives back the memory that is held from one step to the next; a step after that takes it again."""
        if self._arena:
            self._arena.release()

    def _measured(self, work: list[Any]) -> Costs:
        """Costs of a pass, measured in the first step and whenever sequences become longer."""
        largest = max(work, key=lambda micro: (micro.longest, micro.computed))
        if self._costs is None or (largest.longest > self._measured_on and self._graphs):
            costs = measure(self._module, largest.features, largest.computed, graph=self._graphs)
            self._costs = costs if self._reuse else Costs(costs.tokens, costs.graph, [])
            self._measured_on = largest.longest
        return self._costs
