"""Checkpoints that any world size and any ZeRO stage can read: full float32 weights and Adam moments as safetensors.

A checkpoint is a folder `step-00000012`. It is written under a temporary name and renamed when whole, so a folder with
its final name is always complete. The training position is a step number: plans are pure functions of it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cluster.errors import InputError

WEIGHTS, MOMENTS, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(folder: Path, engine: Any, state: dict[str, Any], keep: int) -> Path:
    """Writes `folder/step-N` with N = state["step"]; called by every rank, written by rank 0.

    The newest `keep` checkpoints stay, and the one that state["best_step"] names.
    """
    weights, moments = _full_state(engine)
    target = folder / f"step-{state['step']:08d}"
    if dist.get_rank() == 0:
        partial = folder / f".{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(weights, partial / WEIGHTS)
        save_file(moments, partial / MOMENTS)
        (partial / STATE).write_text(json.dumps(state, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        best = f"step-{state['best_step']:08d}" if state.get("best_step") is not None else None
        for old in sorted(folder.glob("step-*"))[:-keep]:
            if old.name != best:
                shutil.rmtree(old)
    dist.barrier()
    return target


def newest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint with the highest step, if there is one."""
    found = sorted(folder.glob("step-*"))
    return found[-1] if found else None


def load_checkpoint(folder: Path, engine: Any, identity: dict[str, Any]) -> dict[str, Any]:
    """Puts weights and moments of a checkpoint into the engine and returns its state.

    Raises:
        InputError: the checkpoint belongs to another student, recipe or set of lists; the difference is named.
    """
    state = json.loads((folder / STATE).read_text())
    different = [key for key in identity if state["identity"].get(key) != identity[key]]
    if different:
        lines = [f"  {key}: {state['identity'].get(key)!r} then, {identity[key]!r} now" for key in different]
        raise InputError(
            f"checkpoint {folder} belongs to another training:\n" + "\n".join(lines)
            + "\nTrain anew with --overwrite training, or put these values back."
        )  # fmt: skip
    _put_state(engine, folder)
    return state


def load_weights(folder: Path, module: torch.nn.Module) -> None:
    """Puts the weights of a checkpoint into a plain module, outside of any engine."""
    module.load_state_dict(load_file(folder / WEIGHTS), strict=False)


def _full_state(engine: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Full float32 weights and moments on the CPU, gathered from all ranks' partitions where there are any."""
    weights, moments = {}, {}
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        if engine.zero_optimization_stage() == 0:
            kept = engine.optimizer.state.get(parameter, {})
            full, parts = parameter.detach(), {key: kept[key] for key in _MOMENTS if key in kept}
        else:
            from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

            full = safe_get_full_fp32_param(parameter)
            parts = {key: safe_get_full_optimizer_state(parameter, key) for key in _MOMENTS}
        weights[name] = full.detach().to("cpu", torch.float32, copy=True).contiguous()
        for key, part in parts.items():
            if part is not None:
                moments[f"{key}.{name}"] = part.detach().to("cpu", torch.float32, copy=True).contiguous()
    return weights, moments


def _put_state(engine: Any, folder: Path) -> None:
    """The inverse of `_full_state`. Adam's own step count is the number of optimizer steps taken so far."""
    steps = json.loads((folder / STATE).read_text())["step"]
    with safe_open(folder / WEIGHTS, "pt") as weights, safe_open(folder / MOMENTS, "pt") as moments:
        known = set(moments.keys())
        for name, parameter in engine.module.named_parameters():
            if not parameter.requires_grad:
                continue
            parts = {key: moments.get_tensor(f"{key}.{name}") for key in _MOMENTS if f"{key}.{name}" in known}
            if engine.zero_optimization_stage() == 0:
                with torch.no_grad():
                    parameter.copy_(weights.get_tensor(name))
                if parts:
                    on_device = {key: part.to(parameter.device) for key, part in parts.items()}
                    engine.optimizer.state[parameter] = {"step": torch.tensor(float(steps)), **on_device}
            else:
                _put_partitioned(engine, parameter, weights.get_tensor(name), parts)
    if engine.zero_optimization_stage():
        for entry in engine.optimizer.optimizer.state.values():
            entry["step"] = torch.tensor(float(steps))


def _put_partitioned(
    engine: Any, parameter: torch.nn.Parameter, weight: torch.Tensor, parts: dict[str, torch.Tensor]
) -> None:
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    safe_set_full_fp32_param(parameter, weight.to(engine.device))
    for key, part in parts.items():
        safe_set_full_optimizer_state(parameter, part.to(engine.device), key)
