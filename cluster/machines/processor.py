"""What the processor of this machine can do."""

from __future__ import annotations


def has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16.

    Without them a product of bfloat16 matrices takes hundreds of times as long as one of float32: 0.27 beside
    96 GFLOP/s on two threads of an AMD EPYC (family 25), which has AVX2 alone.
    """
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
