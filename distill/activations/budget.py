"""What a forward pass keeps for its backward, counted; what a rank has room for, and what of it is kept.

No formula of an architecture is needed: autograd itself is asked for graphs, the dispatcher for outputs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from cluster.machines.memory import machine_memory
from distill.activations.recompute import Listing, Output, dearest

MIB = 2**20
OF_AVAILABLE = 1 / 3  # of a machine's memory that is available, for all ranks on it; the rest is its owner's
OF_FREE = 0.6  # of a GPU's free memory; the rest is for the loss, for one more micro-batch, and for fragments
BYTES_PER_WEIGHT = 16  # float32: gradient, two moments, and the buffer in which gradients are reduced


class GraphBytes:
    """Bytes that a graph holds: every storage once, however many tensors are views of it."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._weights = {each.untyped_storage().data_ptr() for each in module.parameters()}
        self.bytes = 0

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Adds what the forward pass inside keeps; weights are there anyway and are not counted."""
        seen: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._weights:
                seen[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # an output that its own node saved would keep the graph alive for ever

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
        self.bytes += sum(seen.values())


@dataclass(frozen=True)
class Keep:
    """What a step keeps of its first runs.

    Attributes:
        graphs_from: of micro-batches from this one on, the graph.
        numbers: of the others, the outputs of these calls.
        graph_bytes, output_bytes: of all of them.
        recalled: the share of all outputs that these are, by bytes.
    """

    graphs_from: int
    numbers: frozenset[int] = frozenset()
    graph_bytes: int = 0
    output_bytes: int = 0
    recalled: float = 0.0


@dataclass(frozen=True)
class Costs:
    """What a micro-batch's activations took.

    Attributes:
        tokens: that it computed.
        graph: bytes of its graph; None where graphs cannot be kept.
        outputs: of its calls.
    """

    tokens: int
    graph: int | None
    outputs: list[Output]

    def keep(self, computed: list[int], most: int) -> Keep:
        """What to keep of micro-batches that compute so many tokens each, in `most` bytes.

        All graphs; else the dearest outputs of all, and graphs of the last ones if every output has room.
        """
        times = sum(computed) / self.tokens
        if self.graph is not None and self.graph * times <= most:
            return Keep(0, graph_bytes=math.ceil(self.graph * times))
        lasting = sum(each.bytes for each in self.outputs if each.lasts)
        numbers = dearest(self.outputs, most / times)
        chosen = sum(self.outputs[number].bytes for number in numbers)
        first, left = len(computed), most - chosen * times
        if self.graph is not None and chosen == lasting:
            while first and (left := left - (self.graph - chosen) * computed[first - 1] / self.tokens) >= 0:
                first -= 1
        return Keep(
            first, numbers,
            graph_bytes=math.ceil((self.graph or 0) * sum(computed[first:]) / self.tokens),
            output_bytes=math.ceil(chosen * sum(computed[:first]) / self.tokens),
            recalled=chosen / max(1, sum(each.bytes for each in self.outputs)),
        )  # fmt: skip


def costs_of(module: torch.nn.Module, features: dict[str, Any], tokens: int, graph: bool) -> Costs:
    """Encodes a micro-batch to see what it takes.

    Args:
        module: a `EncoderModule`.
        features: of a `Layout`, of so many tokens.
        tokens: that it computes.
        graph: whether graphs can be kept.
    """
    held, listing = GraphBytes(module), Listing()
    with held.counting() if graph else torch.no_grad():
        module(calls=listing, **features)
    return Costs(tokens, held.bytes if graph else None, listing.outputs())


def activation_bytes(
    wanted_mib: int | None, module: torch.nn.Module, device: str, ranks_on_this_machine: int = 1
) -> int:
    """Bytes of activations that a rank may keep. They change what a step takes, and nothing of what it learns.

    Args:
        wanted_mib: by the recipe, MiB; None: a part of a third of the memory that this machine has available, on a GPU
            60 % of what is free there.
        module: whose gradients and moments will need memory too.
        device: "cpu" or "cuda…".
        ranks_here: ranks on this machine, which share its memory.
    """
    if wanted_mib is not None:
        return wanted_mib * MIB
    weights = BYTES_PER_WEIGHT * sum(each.numel() for each in module.parameters() if each.requires_grad)
    if not device.startswith("cuda"):
        return max(0, int(OF_AVAILABLE * machine_memory().available / ranks_on_this_machine - weights))
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(0, int(OF_FREE * (free - weights)))
