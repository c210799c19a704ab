"""Whether a step keeps to the memory that it may take for activations, and learns the same with little of it."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec

import torch

from benchmarks.gpu.parts import Findings, Machine
from benchmarks.gpu.speed import bench
from benchmarks.steps import Bench
from distill.activations.budget import MIB

LITTLE_MIB, TINY_MIB = 64, 1
SPARE = 0.1  # of the budget: blocks of the allocator, the loss, embeddings


def memory(machine: Machine, findings: Findings) -> None:
    """A step that does not fit whole, with all the memory that an empty `activation_mib` takes, and with little."""
    measured = bench(machine)
    count = 16 if machine.dry else 8_192
    findings.figure("activation_mib", measured.budget / MIB)
    findings.figure("recomputed", _step(measured, count, None, findings, "all"))
    little = TINY_MIB if machine.dry else LITTLE_MIB
    findings.figure("recomputed_with_little", _step(measured, count, little, findings, "little"))
    found = [_gradient(measured, 8 if machine.dry else 256, kept) for kept in (None, little, 0)]
    findings.figure("gradients", found[0][0])
    findings.check("there are gradients", found[0][0] > 0)
    findings.check("the gradient is the same to the bit, whatever is kept", found[0] == found[1] == found[2])


def _step(measured: Bench, count: int, kept_mib: int | None, findings: Findings, name: str) -> float:
    """Runs a step; the share of its tokens that were computed twice."""
    on_gpu = measured.device.startswith("cuda")
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    result = measured.ours(count, kept_mib=kept_mib)
    if on_gpu:
        taken = torch.cuda.max_memory_allocated() - before
        allowed = measured.kept_bytes(kept_mib)
        findings.figure(f"{name}_allowed_mib", allowed / MIB)
        findings.figure(f"{name}_taken_mib", taken / MIB)
        findings.figure(f"{name}_reserved_mib", torch.cuda.max_memory_reserved() / MIB)
        findings.figure(f"{name}_device_mib", torch.cuda.mem_get_info()[1] / MIB)
        # beside what is kept: one micro-batch's graph, and the outputs that its second run makes
        one = measured.activations.step_bytes if kept_mib else 0
        findings.check(f"{name}: no more is taken than is allowed", taken <= allowed * (1 + SPARE) + one + 512 * MIB)
    return result["recomputed"]


def _gradient(measured: Bench, count: int, kept_mib: int | None) -> tuple[int, str]:
    """How many weights have a gradient after one step, and a digest of all gradients."""
    measured.activations.most_bytes = measured.kept_bytes(kept_mib)
    engine = measured.engine
    measured.stepper.run(measured.prepare(count, "shuffled"))
    digest, given = hashlib.sha256(), 0
    for weight in engine.module.parameters():
        found = gradient_of(engine, weight)
        if found is not None:
            given += 1
            digest.update(found.detach().float().cpu().numpy().tobytes())
    engine.optimizer.zero_grad()
    return given, digest.hexdigest()


def gradient_of(engine: object, weight: torch.nn.Parameter) -> torch.Tensor | None:
    """The reduced gradient of a weight, wherever the engine's ZeRO stage has put it."""
    if weight.grad is not None or find_spec("deepspeed") is None:
        return weight.grad
    from deepspeed.utils import safe_get_full_grad

    return safe_get_full_grad(weight)
