"""Device hours of every stage, as a range, from operations, bytes and what devices usually reach of their peaks.

Reading is bound by arithmetic, writing by memory: a generator reads all its weights once for every token by which a
batch of sequences grows. Stages without a model (corpus, BM25, FAISS, lists) are not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from distill.training.step_time import Machine, Work, step_time
from launcher.plan.corpus import Sample
from launcher.plan.devices import GB, Device
from launcher.plan.memory import VLLM_SHARE
from launcher.plan.models import Model, model
from launcher.plan.work import QUERY_TOKENS, Step, global_batch
from launcher.recipe import Recipe

UTILISATION = (0.5, 0.15)  # of the peak, at best and at worst: what encoders and rerankers reach
BANDWIDTH = (0.8, 0.4)  # of the memory's, while writing
SEQUENCES = 256  # of a vLLM engine at once, unless engine_args.max_num_seqs says otherwise
LINKS = (450 * GB, 50 * GB)  # bytes a second within a node (NVLink of an H100), and between nodes (400 Gb/s)
LATENCY = 1e-5  # seconds of a message


@dataclass(frozen=True)
class Hours:
    """Device hours of one step of the plan, at best and at worst."""

    low: float
    high: float

    def __add__(self, other: Hours) -> Hours:
        return Hours(self.low + other.low, self.high + other.high)


def hours(recipe: Recipe, sample: Sample, steps: list[Step], device: Device, cpu: Device) -> list[Hours | None]:
    """Of every step: `device` for stages on GPUs, `cpu` for the others; None where a model's size is not known."""
    return [_hours(recipe, sample, step, device, cpu) for step in steps]


def _hours(recipe: Recipe, sample: Sample, step: Step, device: Device, cpu: Device) -> Hours | None:
    if not step.model:
        return Hours(0.0, 0.0)
    found, where = model(step.model), device if step.on_gpu else cpu
    if found is None:
        return None
    if step.stage == "queries":
        seconds = [_writing(recipe, step, found, where, best) for best in (0, 1)]
    elif step.stage == "training":
        seconds = [_training(recipe, sample, found, where, best) for best in (0, 1)]
    else:
        flops = found.forward_flops(step.tokens, step.length)
        seconds = [flops / (where.flops * share) for share in UTILISATION]
    return Hours(seconds[0] / 3600, seconds[1] / 3600)


def _writing(recipe: Recipe, step: Step, found: Model, device: Device, worst: int) -> float:
    """Seconds of one device: prompts by arithmetic, then token after token by memory."""
    generation = recipe.generation
    written = step.written if worst else min(step.written, step.units * float(QUERY_TOKENS))
    read = step.tokens - step.written
    at_once = int(generation.engine_args.get("max_num_seqs", SEQUENCES))
    weights = 2 * found.parameters
    room = device.memory * VLLM_SHARE * generation.tensor_parallel - weights
    one = found.cache_bytes(step.length + generation.max_tokens)
    if one:
        at_once = max(1, min(at_once, generation.concurrency, int(room / one)))
    arithmetic = found.forward_flops(read + written, step.length) / (device.flops * UTILISATION[worst])
    memory = written / at_once * (weights + at_once * one) / (device.bandwidth * BANDWIDTH[worst])
    return arithmetic + memory


def _training(recipe: Recipe, sample: Sample, found: Model, device: Device, worst: int) -> float:
    """Seconds of all ranks together: at best half the steps that early stopping may leave, and nothing recomputed."""
    batch, training = global_batch(recipe, sample), recipe.training
    ranks = training.ranks or 1
    speed = device.flops * UTILISATION[worst] / (1 if device.is_gpu else ranks)
    machine = Machine(speed, speed / 15, device.bandwidth * BANDWIDTH[worst], 8, *LINKS, LATENCY)
    work = Work(
        batch.queries, batch.passages, QUERY_TOKENS, sample.tokens, found.matrices, found.parameters, found.layers,
        found.hidden, found.hidden, recomputed=float(worst),
    )  # fmt: skip
    steps = batch.steps if worst or training.max_steps else math.ceil(batch.steps / 2)
    return steps * step_time(work, machine, ranks).total * (ranks if device.is_gpu else 1)
