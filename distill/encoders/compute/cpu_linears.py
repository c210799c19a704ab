"""Linear layers in bfloat16 on CPUs: those that have one input as one product, which adds the bias too.

Under autocast, torch casts an input for each layer anew, writes the bias down before it multiplies, and adds the
gradients of an input in float32, layer by layer. Here queries, keys and values are one product in each direction, and
its gradient is rounded once. `docs/compute.md` says what that gains; it is no further from float32 than autocast.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from distill.activations.reuse import reusable

Layer = tuple[torch.Tensor, torch.Tensor | None]  # weight (outputs, inputs), and bias (outputs,)


class SharedInputs(TorchFunctionMode):
    """Context that records which linear layers of a forward pass have one input."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[tuple[int, int], list[Layer]] = defaultdict(list)
        self._inputs: list[torch.Tensor] = []  # while they live, no other tensor has their id

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is linear:
            self._record(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _record(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        if isinstance(weight, nn.Parameter):
            self._inputs.append(input)
            self._calls[id(input), input._version].append((weight, bias))

    def groups(self) -> list[list[Layer]]:
        """Layers of one input that are alike: all with a bias or none, all trained or none."""
        alike: dict[tuple[Any, ...], list[Layer]] = defaultdict(list)
        for key, layers in self._calls.items():
            for weight, bias in layers:
                kind = (bias is None, bias is not None and bias.requires_grad, weight.requires_grad, weight.dtype)
                alike[*key, *kind].append((weight, bias))
        return [layers for layers in alike.values() if len({id(weight) for weight, _ in layers}) == len(layers) > 1]


class JoinedLayers(TorchFunctionMode):
    """Context in which linear layers under autocast are computed here; layers of one input as one product.

    Args:
        groups: layers that were seen to have one input.
    """

    def __init__(self, groups: list[list[Layer]]) -> None:
        super().__init__()
        self.groups = {id(layers[0][0]): layers for layers in groups}
        self._ready: dict[int, tuple[torch.Tensor, int, torch.Tensor]] = {}

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._ready.clear()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is linear and torch.is_autocast_enabled("cpu"):
            return self._linear(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _linear(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Output of one layer. The first layer of a group computes the outputs of all."""
        given, version, output = self._ready.pop(id(weight), (None, 0, None))
        if output is not None and given is input and version == input._version:
            return output
        layers = self.groups.get(id(weight), [(weight, bias)])
        with torch.autocast("cpu", enabled=False):
            output = JoinedLinear.apply(input, *(weight for weight, _ in layers), *(bias for _, bias in layers))
        if len(layers) == 1:
            return output
        first, *others = output.split([len(weight) for weight, _ in layers], dim=-1)
        for (sibling, _), part in zip(layers[1:], others, strict=True):
            self._ready[id(sibling)] = input, input._version, part
        return first


class JoinedLinear(torch.autograd.Function):
    """x Wᵀ + b in bfloat16, for the rows of several W and b at once."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *layers: Any) -> torch.Tensor:
        """(…, all outputs) of x (…, inputs), n weights (outputs, inputs) and then n biases (outputs,) or Nones."""
        weights, biases = layers[: len(layers) // 2], layers[len(layers) // 2 :]
        ctx.dtypes, ctx.shape = (x.dtype, weights[0].dtype), x.shape
        ctx.sizes = [len(weight) for weight in weights]
        x = x.to(torch.bfloat16)
        weight, bias = _joined(weights), None if biases[0] is None else _joined(biases)
        for_x, for_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        ctx.save_for_backward(x if for_weight else None, weight if for_x else None)
        return reusable(lambda: torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""), x.shape[-1])

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


def _joined(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """All rows in bfloat16."""
    return (torch.cat(parts) if len(parts) > 1 else parts[0]).to(torch.bfloat16)
