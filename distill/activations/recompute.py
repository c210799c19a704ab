"""What the first run of a forward pass leaves for its second: outputs that are dear to make and cheap to keep.

A micro-batch whose graph is not kept is encoded twice, and its backward looks at what the second run saves: the inputs
of matrix products. Their outputs can come from the first run. Those that sum over many columns cost most for each of
their bytes, and attention, with its softmax, costs more than any product. To choose by cost is Megatron's idea (arXiv
2205.05198, selective recomputation); the two runs are GradCache's (arXiv 2101.06983).

Dear calls are numbered as they come, so any architecture's will do. Only the kernel below autograd is answered from
memory: the second run has the graph that it would have had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

Call = Callable[[], torch.Tensor]

KERNELS = {
    "aten::mm", "aten::addmm", "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention", "torch_attn::_varlen_attn",
}  # fmt: skip


@dataclass(frozen=True)
class Output:
    """What a dear call gave.

    Attributes:
        bytes: of it; none if its kernel is not known, so that it cannot be kept.
        summed: columns that each of its elements sums over; infinitely many for attention.
        lasts: whether it still was what it had been when the pass ended; a model may write over it.
    """

    bytes: int
    summed: float
    lasts: bool


class Calls(TorchFunctionMode):
    """Numbers dear calls while it is entered, from 0, and answers them: linear layers, attention, `dear_call`."""

    def __enter__(self) -> Calls:
        self.count, self._token = 0, _entered.set(self)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _entered.reset(self._token)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is linear:
            return self.next(_Kernel(partial(function, *args, **(kwargs or {}))), args[0].shape[-1])
        if function is scaled_dot_product_attention:
            return self.next(_Kernel(partial(function, *args, **(kwargs or {}))), math.inf)
        return function(*args, **(kwargs or {}))

    def next(self, call: _Kernel | _Whole, summed: float) -> torch.Tensor:
        """Answers the next call."""
        self.count += 1
        return self.answer(self.count - 1, call, summed)

    def answer(self, number: int, call: _Kernel | _Whole, summed: float) -> torch.Tensor:
        """What a call returns."""
        raise NotImplementedError

    def recalls_next(self) -> bool:
        """Whether the next call's output is there already."""
        return False


class Listing(Calls):
    """Makes all outputs, and tells what they were."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[tuple[list[torch.Tensor], list[int], float]] = []

    def answer(self, number: int, call: _Kernel | _Whole, summed: float) -> torch.Tensor:
        """Makes the output."""
        returned, output = call.make()
        tensors = [each for each in tree_leaves(output) if isinstance(each, torch.Tensor)]
        self._made.append((tensors, [each._version for each in tensors], summed))
        return returned

    def outputs(self) -> list[Output]:
        """Of the pass, in the order of its calls."""
        return [
            Output(
                bytes=sum(each.untyped_storage().nbytes() for each in tensors),
                summed=summed,
                lasts=versions == [each._version for each in tensors],
            )
            for tensors, versions, summed in self._made
        ]


class Keeping(Calls):
    """Makes all outputs, and keeps those of the calls with these numbers.

    Args:
        numbers: of the calls.
        hold: gives what is to be kept of a tensor: a copy in a place of its own, say.
    """

    def __init__(
        self, numbers: Collection[int], hold: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.detach
    ) -> None:
        super().__init__()
        self._numbers, self._hold = numbers, hold
        self._kept: dict[int, Any] = {}

    def answer(self, number: int, call: _Kernel | _Whole, summed: float) -> torch.Tensor:
        """Makes the output."""
        if number not in self._numbers:
            return call.call()
        returned, output = call.make()
        if output is not None:
            self._kept[number] = tree_map_only(torch.Tensor, self._hold, output)
        return returned

    def recalling(self) -> Recalling:
        """For the second run, which takes what is kept; after that it is gone."""
        return Recalling(self._kept)


class Recalling(Calls):
    """Takes the outputs that the first run kept, and makes the others."""

    def __init__(self, kept: dict[int, Any]) -> None:
        super().__init__()
        self._kept = kept

    def answer(self, number: int, call: _Kernel | _Whole, summed: float) -> torch.Tensor:
        """Takes or makes the output."""
        return call.take(self._kept.pop(number)) if number in self._kept else call.call()

    def recalls_next(self) -> bool:
        """Whether the first run kept it."""
        return self.count in self._kept


_entered: ContextVar[Calls | None] = ContextVar("_entered", default=None)


def dear_call(call: Call, summed: float = math.inf, kernel: bool = False) -> torch.Tensor:
    """A layer or attention that is no function of torch's, answered as those are.

    Args:
        call: computes it.
        summed: columns that each of its output's elements sums over; infinitely many for attention.
        kernel: whether it ends in one of `KERNELS`; else its output is taken as a whole, and has no graph.
    """
    calls = _entered.get()
    return calls.next((_Kernel if kernel else _Whole)(call), summed) if calls else call()


def recalls_next() -> bool:
    """Whether the next dear call will be answered without being made."""
    calls = _entered.get()
    return calls is not None and calls.recalls_next()


def dearest(outputs: list[Output], most: float) -> frozenset[int]:
    """Numbers of the calls whose outputs spare most time in so many bytes: longest sums first."""
    chosen: set[int] = set()
    for number in sorted(range(len(outputs)), key=lambda number: -outputs[number].summed):
        if not outputs[number].lasts or not outputs[number].bytes:
            continue
        most -= outputs[number].bytes
        if most < 0:
            break
        chosen.add(number)
    return frozenset(chosen)


@dataclass(frozen=True)
class _Whole:
    """A call whose output is all there is to keep."""

    call: Call

    def make(self) -> tuple[torch.Tensor, Any]:
        """What it returns, and what to keep."""
        output = self.call()
        return output, output

    def take(self, kept: Any) -> torch.Tensor:
        """What it returns, from what was kept."""
        return kept.detach()  # autograd writes into the tensor that it is given


@dataclass(frozen=True)
class _Kernel:
    """A call with a graph, of which only the output of its kernel is kept."""

    call: Call

    def make(self) -> tuple[torch.Tensor, Any]:
        """What it returns, and what to keep."""
        with _Watch() as watch:
            return self.call(), watch.output

    def take(self, kept: Any) -> torch.Tensor:
        """What it returns, from what was kept."""
        with _Watch(kept):
            return self.call()


class _Watch(TorchDispatchMode):
    """Sees the output of the one kernel of a call, or gives it; of a call with several it sees none."""

    def __init__(self, given: Any = None) -> None:
        super().__init__()
        self.output, self._given, self._kernels = None, given, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.name().partition(".")[0] not in KERNELS:
            return function(*args, **(kwargs or {}))
        if self._given is not None:
            return tree_map_only(torch.Tensor, torch.Tensor.detach, self._given)
        output = function(*args, **(kwargs or {}))
        self._kernels += 1
        self.output = output if self._kernels == 1 else None
        return output
