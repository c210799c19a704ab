"""Device hours of every stage, as a range: from operations, bytes, and the share of their peaks that devices reach.

The speed of arithmetic limits how fast texts are read. The memory bandwidth limits how fast tokens are generated: for
every token that a batch of sequences grows by, the generator reads all its weights. Stages without a model (corpus,
BM25, FAISS, lists) are not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from distill.training.step_time import Machine, Work, step_time
from launcher.plan.corpus import CorpusSample
from launcher.plan.devices import GB, Device, bytes_of_number
from launcher.plan.memory import VLLM_SHARE
from launcher.plan.models import ModelSize, model_size
from launcher.plan.placed import generation_of
from launcher.plan.plan_step import PlanStep
from launcher.plan.work import QUERY_TOKENS, global_batch
from launcher.recipe import Recipe

# Two shares each, at best and at worst: of the peak arithmetic, by encoders and rerankers; of the memory bandwidth, by
# generation.
UTILISATION = (0.5, 0.15)
BANDWIDTH = (0.8, 0.4)
SEQUENCES = 256  # that a vLLM engine generates at once; engine_args.max_num_seqs overrides it
LINKS = (450 * GB, 50 * GB)  # bytes per second within a node (NVLink of an H100), and between nodes (400 Gb/s)
LATENCY_S = 1e-5  # of a message


@dataclass(frozen=True)
class HoursRange:
    """Device hours of one step of a plan, at best and at worst."""

    low: float
    high: float

    def __add__(self, other: HoursRange) -> HoursRange:
        return HoursRange(self.low + other.low, self.high + other.high)


def estimate_hours(
    recipe: Recipe, sample: CorpusSample, steps: list[PlanStep], gpu: Device, cpu: Device
) -> list[HoursRange | None]:
    """Estimates the device hours of every step, on its device; None for a model of unknown size."""
    return [_step_hours(recipe, sample, step, gpu if step.on_gpu else cpu) for step in steps]


def _step_hours(recipe: Recipe, sample: CorpusSample, step: PlanStep, device: Device) -> HoursRange | None:
    if not step.model:
        return HoursRange(0.0, 0.0)
    size = model_size(step.model)
    if size is None:
        return None
    if step.stage == "queries":
        seconds = [_generation_seconds(recipe, step, size, device, worst) for worst in (0, 1)]
    elif step.stage == "training":
        seconds = [_training_seconds(recipe, sample, size, device, worst) for worst in (0, 1)]
    else:
        flops = size.forward_flops(step.tokens, step.length)
        seconds = [flops / (device.flops * share) for share in UTILISATION]
    return HoursRange(seconds[0] / 3600, seconds[1] / 3600)


def _generation_seconds(recipe: Recipe, step: PlanStep, size: ModelSize, device: Device, worst: int) -> float:
    """Seconds of one device: arithmetic for all tokens, plus memory reads for every generated token.

    Args:
        recipe: of the run.
        step: the plan's step for the stage `queries`.
        size: of the generator.
        device: that generates.
        worst: 0 for the best case, 1 for the worst; it chooses from `UTILISATION` and `BANDWIDTH`.
    """
    generation = generation_of(recipe, step)
    assert generation is not None, "the step writes queries"
    written = step.written if worst else min(step.written, step.units * float(QUERY_TOKENS))
    read = step.tokens - step.written
    sequences = int(generation.engine_args.get("max_num_seqs", SEQUENCES))
    number = bytes_of_number(str(generation.engine_args.get("dtype")), device.is_gpu)
    weights = number * size.parameters
    cache_space = device.memory * VLLM_SHARE * generation.tensor_parallel - weights
    cache = size.cache_bytes(step.length + generation.max_tokens, number)  # of one sequence
    if cache:
        sequences = max(1, min(sequences, generation.concurrency, int(cache_space / cache)))
    arithmetic_s = size.forward_flops(read + written, step.length) / (device.flops * UTILISATION[worst])
    memory_s = written / sequences * (weights + sequences * cache) / (device.bandwidth * BANDWIDTH[worst])
    return arithmetic_s + memory_s


def _training_seconds(recipe: Recipe, sample: CorpusSample, size: ModelSize, device: Device, worst: int) -> float:
    """Seconds of all ranks together.

    At best, early stopping ends training after half of the steps, and no activation is recomputed. At worst, all steps
    run, and all activations are recomputed. `worst` as in `_generation_seconds`.
    """
    batch, training = global_batch(recipe, sample), recipe.training
    ranks = training.ranks or 1
    speed = device.flops * UTILISATION[worst] / (1 if device.is_gpu else ranks)
    machine = Machine(speed, speed / 15, device.bandwidth * BANDWIDTH[worst], 8, *LINKS, LATENCY_S)
    work = Work(
        batch.queries, batch.passages, QUERY_TOKENS, sample.tokens, size.matrices, size.parameters, size.layers,
        size.hidden, size.hidden, recomputed=float(worst),
    )  # fmt: skip
    steps = batch.steps if worst or training.max_steps else math.ceil(batch.steps / 2)
    return steps * step_time(work, machine, ranks).total * (ranks if device.is_gpu else 1)
