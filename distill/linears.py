"""Linear layers in bfloat16 on CPUs: those that have one input as one product, which adds the bias too.

Under autocast torch casts an input for each layer anew, writes the bias down before it multiplies, and adds the
gradients of an input in float32, layer by layer. Here queries, keys and values are one product in each direction, and
its gradient is rounded once. What that is worth is in `docs/decisions/compute-on-cpus.md`; it is no further from
float32 than autocast.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from distill.engine import everywhere
from distill.recall import dear_call

if TYPE_CHECKING:
    from distill.student import Student

Layer = tuple[torch.Tensor, torch.Tensor | None]  # weight (outputs, inputs), and bias (outputs,)


def choose_linears(student: Student, features: dict[str, Any], zero_stage: int = 0) -> None:
    """Joins the student's linear layers that have one input, if it is on a CPU and computes in bfloat16.

    Sets `student.linears`. Which layers have one input is looked at in a trial. Every rank calls it, and all decide
    alike. Under ZeRO 3 a layer has its weights only while it is called, so that none can be joined.

    Args:
        student: on its device, in its dtype.
        features: of a few sequences, for a trial.
        zero_stage: of the training.
    """
    here = student.device == "cpu" and student.dtype == torch.bfloat16 and in_bfloat16() and zero_stage < 3
    if not everywhere(here):
        return
    with torch.no_grad(), _Seen() as seen:
        student(**features)
    student.linears = Linears(seen.siblings())


@cache
def in_bfloat16() -> bool:
    """Whether oneDNN computes in bfloat16 on this processor, and torch has its linear layer."""
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


class _Seen(TorchFunctionMode):
    """Notes what the linear layers of a forward pass are called with."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[tuple[int, int], list[Layer]] = defaultdict(list)
        self._inputs: list[torch.Tensor] = []  # while they live, no other tensor has their id

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is linear:
            self._note(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _note(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        if isinstance(weight, nn.Parameter):
            self._inputs.append(input)
            self._calls[id(input), input._version].append((weight, bias))

    def siblings(self) -> list[list[Layer]]:
        """Layers of one input that are alike: all with a bias or none, all trained or none."""
        alike: dict[tuple[Any, ...], list[Layer]] = defaultdict(list)
        for key, layers in self._calls.items():
            for weight, bias in layers:
                kind = (bias is None, bias is not None and bias.requires_grad, weight.requires_grad, weight.dtype)
                alike[*key, *kind].append((weight, bias))
        return [layers for layers in alike.values() if len({id(weight) for weight, _ in layers}) == len(layers) > 1]


class Linears(TorchFunctionMode):
    """Answers calls of linear layers under autocast; the first of several with one input makes what all of them give.

    Args:
        siblings: layers that were seen to have one input.
    """

    def __init__(self, siblings: list[list[Layer]]) -> None:
        super().__init__()
        self.siblings = {id(layers[0][0]): layers for layers in siblings}
        self._made: dict[int, tuple[torch.Tensor, int, torch.Tensor]] = {}

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._made.clear()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is linear and torch.is_autocast_enabled("cpu"):
            return self._answer(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _answer(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        given, version, output = self._made.pop(id(weight), (None, 0, None))
        if output is not None and given is input and version == input._version:
            return output
        layers = self.siblings.get(id(weight), [(weight, bias)])
        with torch.autocast("cpu", enabled=False):
            output = Joined.apply(input, *(weight for weight, _ in layers), *(bias for _, bias in layers))
        if len(layers) == 1:
            return output
        first, *others = output.split([len(weight) for weight, _ in layers], dim=-1)
        for (sibling, _), part in zip(layers[1:], others, strict=True):
            self._made[id(sibling)] = input, input._version, part
        return first


class Joined(torch.autograd.Function):
    """x Wᵀ + b in bfloat16, for the rows of several W and b at once."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *layers: Any) -> torch.Tensor:
        """(…, inputs) with n weights (outputs, inputs) and then n biases (outputs,), or Nones; (…, all outputs)."""
        weights, biases = layers[: len(layers) // 2], layers[len(layers) // 2 :]
        ctx.dtypes, ctx.shape = (x.dtype, weights[0].dtype), x.shape
        ctx.sizes = [len(weight) for weight in weights]
        x = x.to(torch.bfloat16)
        weight, bias = _one(weights), None if biases[0] is None else _one(biases)
        for_x, for_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        ctx.save_for_backward(x if for_weight else None, weight if for_x else None)
        return dear_call(lambda: torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""), x.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the input and of those weights and biases that have one."""
        x, weight = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        none = (None,) * len(ctx.sizes)
        for_x, for_weights, for_biases = None, none, none
        if weight is not None:
            for_x = (gradient @ weight).view(ctx.shape).to(ctx.dtypes[0])
        if x is not None:
            for_weights = (gradient.T @ x.reshape(-1, x.shape[-1])).to(ctx.dtypes[1]).split(ctx.sizes)
        if ctx.needs_input_grad[-1]:
            for_biases = gradient.sum(0).to(ctx.dtypes[1]).split(ctx.sizes)
        return for_x, *for_weights, *for_biases


def _one(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """All rows in bfloat16."""
    return (torch.cat(parts) if len(parts) > 1 else parts[0]).to(torch.bfloat16)
