"""How fast a step is: against the papers' step, sentence-transformers' trainer, and the device's own products."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.gpu.material import make_lists
from benchmarks.gpu.parts import Findings, Machine
from benchmarks.gpu.shapes import save_encoder, shapes
from benchmarks.machine import now
from benchmarks.steps import Bench

REPEATS = 3  # of a step; the median counts
SLOT_TOKENS = 65_536  # of a micro-batch of the step of all slots on a GPU
COMPILE_S = 60.0  # seconds that must be left for torch.compile
LEARNING_RATE = 1e-5


def bench(machine: Machine) -> Bench:
    """A BERT-base shape, lists of twenty over 20,000 passages of at most 256 tokens; tiny ones for a dry run."""
    shape = shapes(machine.dry)["bert-base"]
    passages, queries, length, tokens = (200, 32, 8, 48) if machine.dry else (20_000, 8_192, 20, 256)
    model = save_encoder(shape, machine.folder / "student", tokens)
    slot_tokens = 1_024 if machine.dry else SLOT_TOKENS
    return Bench(make_lists(passages, queries, length, shape.words, tokens), model, tokens, machine.device, slot_tokens)


def speed(machine: Machine, findings: Findings) -> None:
    """Steps of several sizes, the steps they are compared with, and what single measures gain."""
    measured = bench(machine)
    findings.figure("packed", measured.stepper.layout.packed)
    findings.figure("activation_mib", measured.budget / 2**20)
    peak = measured.products.best()
    findings.figure("products_tflop_per_s", peak / 1e12)
    counts, sliced, library = ([8, 16], 8, 4) if machine.dry else ([256, 1_024, 4_096], 256, 64)
    rates = {count: _ours(measured, count, peak, findings) for count in counts}
    slots = measured.every_slot(sliced)
    slots = measured.every_slot(sliced)  # the first one chose kernels
    slot_rate = sliced / slots["seconds"]
    findings.figure("every_slot_queries_per_s", slot_rate)
    for count, rate in rates.items():
        findings.figure(f"{count}_times_every_slot", rate / slot_rate)
    _pinned(measured, counts[0], findings)
    _fused(measured, findings)
    trained = _library(measured, library, findings)
    for count, rate in rates.items() if trained else ():
        findings.figure(f"{count}_times_sentence_transformers", rate / trained)
    _compiled(machine, measured, counts[0], rates[counts[0]], findings)


def _ours(measured: Bench, count: int, peak: float, findings: Findings) -> float:
    """Queries per second of the median step."""
    measured.ours(count)
    results = sorted((measured.ours(count) for _ in range(REPEATS)), key=lambda result: result["seconds"])
    median = results[REPEATS // 2]
    rate = count / median["seconds"]
    findings.figure(f"{count}_queries_per_s", rate)
    findings.figure(f"{count}_tokens_per_s", median["tokens"] / median["seconds"])
    findings.figure(f"{count}_mfu", median["flops"] / peak)
    for name in ("padding", "recomputed", "reused", "repeats"):
        findings.figure(f"{count}_{name}", median[name])
    return rate


def _library(measured: Bench, count: int, findings: Findings) -> float:
    """Queries per second of sentence-transformers' trainer; 0 if it cannot run here."""
    try:
        seconds = measured.library(count, min(8, count // 2))["seconds"]
    except ImportError as error:
        findings.note(f"sentence-transformers' trainer cannot run: {error}")
        return 0.0
    findings.figure("sentence_transformers_queries_per_s", count / seconds)
    return count / seconds


def _pinned(measured: Bench, count: int, findings: Findings) -> None:
    """Time to hand the tensors of a step to the device, from pinned memory and from any."""
    if measured.device == "cpu":
        findings.note("memory is pinned for GPUs alone")
        return
    tensors = [
        value
        for micro in measured.prepare(count, "shuffled").work
        for value in micro.features.values()
        if isinstance(value, torch.Tensor)
    ]
    plain = [tensor.clone() for tensor in tensors]
    for name, given in (("pinned", tensors), ("pageable", plain), ("pinned", tensors), ("pageable", plain)):
        begun = now(measured.device)
        kept = [tensor.to(measured.device, non_blocking=True) for tensor in given]
        findings.figure(f"transfer_{name}_s", now(measured.device) - begun)
        del kept


def _fused(measured: Bench, findings: Findings) -> None:
    """Time of AdamW on the student's weights, fused and weight by weight."""
    weights = [torch.nn.Parameter(weight.detach().clone()) for weight in measured.student.parameters()]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    for name, options in (("fused", {"fused": True}), ("foreach", {"foreach": True}), ("loop", {"foreach": False})):
        optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, **options)
        seconds = []
        for _ in range(REPEATS + 1):
            begun = now(measured.device)
            optimizer.step()
            seconds.append(now(measured.device) - begun)
        findings.figure(f"adamw_{name}_s", float(np.median(seconds[1:])))


def _compiled(machine: Machine, measured: Bench, count: int, rate: float, findings: Findings) -> None:
    """The same step with the transformer compiled; the last thing measured, since it cannot be undone."""
    if machine.left_s < COMPILE_S and not machine.dry:
        findings.note("torch.compile: no time was left")
        return
    measured.student.model.transformers_model.compile(dynamic=True, backend="eager" if machine.dry else "inductor")
    try:
        begun = now(measured.device)
        measured.ours(count)
        findings.figure("compile_first_step_s", now(measured.device) - begun)
        seconds = sorted(measured.ours(count)["seconds"] for _ in range(REPEATS))[REPEATS // 2]
    except Exception as error:  # of dynamo or a compiler: it is an experiment, and nothing rests on it
        findings.note(f"torch.compile fails: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
        return
    findings.figure("compile_gain", count / seconds / rate)
