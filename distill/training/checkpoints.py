"""Checkpoints that any world size and any ZeRO stage can read: full float32 weights and Adam moments as safetensors.

A checkpoint is a folder `step-00000012`. It is written under a temporary name and renamed when it is whole and on the
disk (`checkpoint_files.py`). The training position is a step number: plans are pure functions of it.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cluster.errors import InputError, RunError
from cluster.machines.private_folder import share_as_folder
from cluster.tables.fingerprint import check_fingerprint
from distill.training.checkpoint_files import name_of, read, seal, sync

WEIGHTS, MOMENTS = "model.safetensors", "optimizer.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_ANEW = "Or start the training again: run with --overwrite training, or train into another --output."


class CheckpointWriter:
    """Writes checkpoints of a training while it goes on; a context manager that ends when the last one is whole.

    Args:
        folder: where checkpoints lie.
        keep: the newest so many stay, and the one that state["best_step"] names.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, engine: Any, state: dict[str, Any]) -> None:
        """Takes a copy of weights, moments and state; called by every rank. Rank 0 writes it to `step-N` meanwhile.

        Raises:
            RunError: a weight is no number; nothing is written, and the checkpoints before stay.
        """
        weights: dict[str, torch.Tensor] = {}
        moments: dict[str, torch.Tensor] = {}
        seen, lost = 0, []
        for name, weight, parts in gathered(engine):  # every rank takes part, and only the first keeps a copy
            seen += 1
            if not weight.isfinite().all():
                lost.append(name)
            if dist.get_rank() == 0:
                weights[name] = _copy(weight)
                moments |= {f"{key}.{name}": _copy(part) for key, part in parts.items()}
        if lost:
            raise RunError(
                f"after step {state['step']} the weights of {lost[0]} are no numbers, {len(lost)} of "
                f"{seen} tensors in all. The last checkpoint stays. Lower training.learning_rate."
            )
        self.wait()
        if dist.get_rank() == 0:
            self._pending = self._pool.submit(self._write, weights, moments, copy.deepcopy(state))

    def wait(self) -> None:
        """Until the checkpoint in hand is whole; raises what went wrong with it."""
        if self._pending:
            pending, self._pending = self._pending, None
            pending.result()

    def _write(self, weights: dict[str, torch.Tensor], moments: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        target, best = self.folder / name_of(state["step"]), state["best_step"]
        partial = self.folder / f".{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(weights, partial / WEIGHTS)
        save_file(moments, partial / MOMENTS)
        share_as_folder(partial)
        seal(partial, state)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        sync(self.folder)
        for old in sorted(self.folder.glob("step-*"))[: -self.keep]:
            if best is None or old.name != name_of(best):
                shutil.rmtree(old)

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)
        self.wait()


def read_state(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The state of a whole checkpoint that this training may continue from.

    Raises:
        InputError: the checkpoint belongs to another student, recipe or set of lists; the difference is named.
    """
    state = read(folder)
    check_fingerprint(f"checkpoint {folder}", "training", state["identity"], identity)
    return state


def load_weights(folder: Path, module: torch.nn.Module) -> None:
    """Copies the weights of a checkpoint into a plain module: before DeepSpeed divides it, or outside of any engine.

    A checkpoint names weights by the module's attributes ("model.0.…"), and holds the trained ones alone: those that
    `requires_grad`. With LoRA these are the adapters.

    Raises:
        InputError: the file lacks a trained weight, holds a weight that the module does not train, or holds one in
            another shape. The module stays as it was.
    """
    path = folder / WEIGHTS
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    weights = load_file(path)
    missing, unexpected = sorted(trained.keys() - weights.keys()), sorted(weights.keys() - trained.keys())
    if missing or unexpected:
        raise InputError(
            f"{path} does not fit the student: it lacks {_first(missing)} of the {len(trained)} weights that are "
            f"trained, and holds {_first(unexpected)} that are not. The names come from another version of this "
            f"program, or of a library that defines the model: continue with the versions that wrote it. {_ANEW}"
        )
    for name, parameter in trained.items():
        if weights[name].shape != parameter.shape:
            raise InputError(
                f"{path} does not fit the student: {name} has shape {list(weights[name].shape)} in the file and "
                f"{list(parameter.shape)} in the student. The model has changed: put the model of before back. {_ANEW}"
            )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(weights[name])


def _first(names: list[str]) -> str:
    """How many names, and the first three of them."""
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} ({shown})" if names else "0"


def load_moments(folder: Path, engine: Any) -> None:
    """Puts Adam's moments of a checkpoint into an engine; Adam's own step count is the number of steps taken so far."""
    stage = engine.zero_optimization_stage()
    steps = torch.tensor(float(folder.name.removeprefix("step-")))
    if stage:
        for partition, state in _partitions(engine):
            state["step"] = steps.to(partition.device, copy=True)
            state.update({key: torch.zeros_like(partition) for key in _MOMENTS})
        _link_moments(engine)
    with safe_open(folder / MOMENTS, "pt") as moments:
        known = set(moments.keys())
        for name, parameter in engine.module.named_parameters():
            if not parameter.requires_grad or f"{_MOMENTS[0]}.{name}" not in known:
                continue
            parts = {key: moments.get_tensor(f"{key}.{name}").to(engine.device) for key in _MOMENTS}
            if stage == 0:
                step = steps.to(parameter.device, copy=True)
                engine.optimizer.state[parameter] = {"step": step, **parts}
            else:
                for key, part in parts.items():
                    _put_partitioned(stage, parameter, key, part)


def gathered(engine: Any) -> Iterator[tuple[str, torch.Tensor, dict[str, torch.Tensor]]]:
    """Name, full float32 weight and full moments of every trained parameter, in turn; every rank calls it.

    They lie where the engine's do, and those of ZeRO are gathered from all ranks' partitions.
    """
    _link_moments(engine)
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        if engine.zero_optimization_stage() == 0:
            kept = engine.optimizer.state.get(parameter, {})
            yield name, parameter.detach(), {key: kept[key] for key in _MOMENTS if key in kept}
            continue
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        full = safe_get_full_fp32_param(parameter)
        parts = {key: safe_get_full_optimizer_state(parameter, key) for key in _MOMENTS}
        yield name, full.detach(), {key: part.detach() for key, part in parts.items() if part is not None}


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to("cpu", torch.float32, copy=True).contiguous()


def _partitions(engine: Any) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
    """This rank's flat partitions of the parameters, with Adam's state of each, under ZeRO 1 to 3."""
    optimizer = engine.optimizer
    third = engine.zero_optimization_stage() == 3
    for partition in optimizer.fp32_partitioned_groups_flat if third else optimizer.single_partition_of_fp32_groups:
        yield partition, optimizer.optimizer.state[partition]


def _link_moments(engine: Any) -> None:
    """Under ZeRO 1 and 2, lets DeepSpeed find the moments of every parameter.

    It links them once, when the first parameter group has stepped and the others have no moments yet (0.19.8).
    """
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _put_partitioned(stage: int, parameter: torch.nn.Parameter, key: str, moment: torch.Tensor) -> None:
    """Each rank keeps its part of a moment. Under ZeRO 3, DeepSpeed 0.19.8 cuts a part without padding the last one."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if stage < 3:
        safe_set_full_optimizer_state(parameter, moment, key)
        return
    size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
    padded = torch.nn.functional.pad(moment.flatten(), (0, size * dist.get_world_size() - moment.numel()))
    safe_set_local_optimizer_state(parameter, padded[dist.get_rank() * size :][:size], key)
