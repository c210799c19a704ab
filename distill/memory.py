"""What a forward pass keeps for its backward, counted; and how much of that a rank has room for.

No formula of an architecture is needed: autograd itself is asked. A step keeps the graphs of as many micro-batches as
the budget holds and recomputes the others (`distill/step.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

MIB = 2**20
ON_CPU_MIB = 2048  # of activations: the machine is shared with other ranks, and with its owner
OF_FREE = 0.6  # of a GPU's free memory; the rest is for the loss, for one more micro-batch, and for fragments
BYTES_PER_WEIGHT = 16  # float32: gradient, two moments, and the buffer in which gradients are reduced


class Held:
    """Bytes that graphs hold: every storage once, however many tensors are views of it."""

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
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
        self.bytes += sum(seen.values())


def activation_bytes(wanted_mib: int | None, module: torch.nn.Module, device: str) -> int:
    """Bytes of activations that a rank may keep.

    Args:
        wanted_mib: by the recipe, MiB; None: 2 GiB on a CPU, on a GPU 60 % of what is free there.
        module: whose gradients and moments will need memory too.
        device: "cpu" or "cuda…".
    """
    if wanted_mib is not None:
        return wanted_mib * MIB
    if not device.startswith("cuda"):
        return ON_CPU_MIB * MIB
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    weights = sum(each.numel() for each in module.parameters() if each.requires_grad)
    return max(0, int(OF_FREE * (free - BYTES_PER_WEIGHT * weights)))
