"""What vLLM can compute with the weights of a model, by its configuration."""

from __future__ import annotations

import json
from pathlib import Path

_PACKED = "pack-quantized"  # four bits in compressed tensors; vLLM's CPU kernel has no float32, though it says so


def takes_float32(model: str) -> bool:
    """Whether vLLM can compute in float32 with the weights of a model: plain ones, and some that are quantised.

    Args:
        model: a folder, or an id of the hub, of whose weights nothing is read.
    """
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True  # an id of the hub: its weights are plain as far as is known here
    quantisation = config.get("quantization_config")
    if quantisation is None:
        return True
    if quantisation.get("format") == _PACKED:
        return False
    import torch
    from vllm.model_executor.layers.quantization import get_quantization_config

    try:
        method = get_quantization_config(quantisation["quant_method"]).from_config(quantisation)
    except (KeyError, TypeError, ValueError):
        return False  # vLLM refuses it, or chooses itself
    return torch.float32 in method.get_supported_act_dtypes()
