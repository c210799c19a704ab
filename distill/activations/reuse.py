"""Outputs of expensive operations, kept from the first run of a forward pass and reused in its second.

A micro-batch whose graph is not kept is encoded twice (GradCache, arXiv 2101.06983). An operation that is written as
`reusable(…)` leaves its output in the first run, and returns it in the second run without computing it. An operation
that sums over many columns costs most for each byte of its output, and attention costs more than any product; to choose
by cost is the idea of selective recomputation (Megatron, arXiv 2205.05198).

Operations are numbered in the order of their calls, which is the same in both runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection
from contextvars import ContextVar
from dataclasses import dataclass

import torch

Operation = Callable[[], torch.Tensor]
Hold = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Output:
    """The output of an operation.

    Attributes:
        bytes: its size.
        summed: columns that each of its elements sums over; infinite for attention.
        unchanged: whether the model had not written over it when the pass ended.
    """

    bytes: int
    summed: float
    unchanged: bool


class Run:
    """Context of one forward pass; `reusable` calls it for the output of each operation."""

    def __enter__(self) -> None:
        self._numbers, self._token = itertools.count(), _current.set(self)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)

    def __call__(self, operation: Operation, summed: float) -> torch.Tensor:
        """Output of the next operation, computed or reused."""
        raise NotImplementedError


class TrialRun(Run):
    """Run that computes everything and measures the outputs."""

    def __init__(self) -> None:
        self._outputs: list[tuple[torch.Tensor, int, float]] = []

    def __call__(self, operation: Operation, summed: float) -> torch.Tensor:  # noqa: D102
        output = operation()
        self._outputs.append((output, output._version, summed))
        return output

    def outputs(self) -> list[Output]:
        """Sizes of all outputs, in the order of the operations."""
        return [
            Output(tensor.untyped_storage().nbytes(), summed, tensor._version == version)
            for tensor, version, summed in self._outputs
        ]


class FirstRun(Run):
    """Run that computes everything and keeps the outputs of some operations in `kept`.

    Args:
        numbers: operations whose outputs are kept.
        hold: returns what is kept of an output, such as a copy in an arena.
    """

    def __init__(self, numbers: Collection[int], hold: Hold = torch.Tensor.detach) -> None:
        self._keep, self._hold = numbers, hold
        self.kept: dict[int, torch.Tensor] = {}

    def __call__(self, operation: Operation, summed: float) -> torch.Tensor:  # noqa: D102
        number, output = next(self._numbers), operation()
        if number in self._keep:
            self.kept[number] = self._hold(output)
        return output


class SecondRun(Run):
    """Run that reuses the outputs that a first run kept, each once, and computes the others."""

    def __init__(self, kept: dict[int, torch.Tensor]) -> None:
        self._kept = kept

    def __call__(self, operation: Operation, summed: float) -> torch.Tensor:  # noqa: D102
        output = self._kept.pop(next(self._numbers), None)
        return operation() if output is None else output.detach()  # autograd writes into the tensor that it is given


_current: ContextVar[Run | None] = ContextVar("_current", default=None)


def reusable(operation: Operation, summed: float = math.inf) -> torch.Tensor:
    """Output of an operation inside an autograd function, computed or reused as the current `Run` decides.

    Args:
        operation: computes the output; it has no graph of its own.
        summed: columns that each element of the output sums over; infinite for attention.
    """
    run = _current.get()
    return run(operation, summed) if run else operation()
