"""The memory that a rank may spend on activations."""

from __future__ import annotations

import torch

from cluster.machines.memory import machine_memory

MIB = 2**20
OF_AVAILABLE = 1 / 3  # of a machine's memory that is available, for all ranks on it; the rest is its owner's
OF_FREE = 0.6  # of a GPU's free memory, for what is kept
ROOM = 0.9  # of a GPU's free memory, for what is kept and one more micro-batch; the rest is for the loss and fragments
BYTES_PER_WEIGHT = 16  # float32: gradient, two moments, and the buffer in which gradients are reduced


def activation_bytes(wanted_mib: int | None, module: torch.nn.Module, device: str, ranks: int = 1) -> int:
    """Bytes of activations that a rank may keep. They decide how long a step takes, and nothing of what it learns.

    Args:
        wanted_mib: MiB that the recipe names; None: on a CPU this rank's part of a third of the memory that the machine
            has available, on a GPU 60 % of what is free there.
        module: the encoder, whose gradients and moments need memory too.
        device: "cpu" or "cuda…".
        ranks: ranks on this machine, which share its memory.
    """
    if wanted_mib is not None:
        return wanted_mib * MIB
    if device.startswith("cuda"):
        return max(0, int(OF_FREE * _left_on_gpu(module, device)))
    return max(0, int(OF_AVAILABLE * machine_memory().available / ranks - _weight_bytes(module)))


def room_bytes(wanted_mib: int | None, module: torch.nn.Module, device: str) -> int | None:
    """Bytes for what is kept and for one micro-batch that is pushed back meanwhile; None: nobody counts them.

    On a GPU that the recipe leaves to us it is counted, since a large micro-batch beside 60 % would run out of memory.
    """
    if wanted_mib is not None or not device.startswith("cuda"):
        return None
    return max(0, int(ROOM * _left_on_gpu(module, device)))


def _left_on_gpu(module: torch.nn.Module, device: str) -> int:
    """Bytes that a GPU has free beside gradients and moments; what torch's allocator holds unused is free, too."""
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free - _weight_bytes(module)


def _weight_bytes(module: torch.nn.Module) -> int:
    """Bytes that training takes for gradients and moments of the weights."""
    return BYTES_PER_WEIGHT * sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
