"""The device of this process: whether it is a GPU, and which dtype it multiplies fastest."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from cluster.machines.processor import has_bfloat16

if TYPE_CHECKING:
    import torch

CPU_TOKENS = 4096  # of a pass on a CPU, whose activations then stay in the caches; measured on two kinds of processor


def resolve_dtype(name: str, device: str) -> torch.dtype:
    """Torch dtype of a recipe's `dtype`; "auto" means bfloat16 if the device multiplies it faster than float32."""
    import torch

    if name != "auto":
        return getattr(torch, name)
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if device == "cpu" and has_bfloat16() else torch.float32


def default_device() -> str:
    """The device "cuda" if this process sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def tokens_of_pass(wanted: int, device: str) -> int:
    """Tokens of a pass that has no backward pass: as many as wanted, and at most `CPU_TOKENS` on a CPU."""
    return min(wanted, CPU_TOKENS) if device == "cpu" else wanted


@cache
def has_bfloat16_linear() -> bool:
    """Whether oneDNN computes in bfloat16 on this processor and torch offers oneDNN's linear layer."""
    import torch

    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
