"""A language model whose weights are quantised as the package compressed-tensors writes them, which vLLM reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import load_file, save_file

GROUP = 32  # weights that share a scale, of four bits


def save_quantised(model: str, folder: Path, bits: int) -> str:
    """Writes a copy of a model with symmetric weights of 8 bits (activations, too) or of 4 bits in groups.

    Only the projections of its layers are quantised, as usual.
    """
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    weights: dict[str, torch.Tensor] = {}
    for name, weight in load_file(next(Path(model).glob("*.safetensors"))).items():
        if name.endswith("_proj.weight"):
            weights |= (_eight if bits == 8 else _four)(name.removesuffix(".weight"), weight.float())
        else:
            weights[name] = weight
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = configuration(bits)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def configuration(bits: int) -> dict[str, Any]:
    """What `config.json` says of the weights."""
    return {
        "quant_method": "compressed-tensors", "quantization_status": "compressed", "ignore": ["lm_head"],
        "format": "int-quantized" if bits == 8 else "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], **_scheme(bits)}},
    }  # fmt: skip


def _scheme(bits: int) -> dict[str, Any]:
    integer = {"num_bits": bits, "type": "int", "symmetric": True}
    if bits == 8:
        return {
            "weights": {**integer, "strategy": "channel", "dynamic": False},
            "input_activations": {**integer, "strategy": "token", "dynamic": True},
        }
    return {"weights": {**integer, "strategy": "group", "group_size": GROUP, "dynamic": False}}


def _eight(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / 127
    return {f"{name}.weight": (weight / scale).round().to(torch.int8), f"{name}.weight_scale": scale.bfloat16()}


def _four(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    groups = weight.view(len(weight), -1, GROUP)
    scale = groups.abs().amax(2, keepdim=True) / 7
    whole = (groups / scale).round().to(torch.int8).view_as(weight)
    return {
        f"{name}.weight_packed": pack_to_int32(whole, 4),
        f"{name}.weight_scale": scale.squeeze(2).bfloat16().contiguous(),
        f"{name}.weight_shape": torch.tensor(weight.shape),
    }
