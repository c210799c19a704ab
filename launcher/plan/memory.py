"""Memory that each worker needs; if its device has too little, the first change of the recipe that makes it fit.

The sizes of weights, gradients and moments are exact. Activations follow Korthikanti et al. (arXiv 2205.05198, eq. 2):
34 bytes for each token, layer and dimension in 16 bits, without attention scores, which attention does not store.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from cluster.machines.memory import machine_memory
from cluster.settings import PoolSettings
from distill.losses.batch import CHUNK_ELEMENTS
from distill.settings.encoders import EncoderSettings
from distill.settings.teachers import MODEL_KINDS, TeacherSettings
from generation import queries
from generation.judging.judged import as_generation
from generation.settings import GenerationSettings
from launcher.environment import cores
from launcher.plan.changes import changes
from launcher.plan.corpus import CorpusSample
from launcher.plan.devices import GIB, Device, bytes_of_number
from launcher.plan.models import ModelSize, model_size
from launcher.plan.work import global_batch, own_encoder
from launcher.recipe import Recipe

BACKWARD_BYTES = 44  # for each token and dimension, that a layer leaves for a backward pass, if no more is known of it
FORWARD_BYTES = 24  # for each token and dimension, that one layer needs during a forward pass
RUNTIME_BYTES = 1.0 * GIB  # of CUDA itself, and of fragmentation
CHUNK_COPIES = 6  # tensors of the size of one chunk of the loss's similarities, gradient included
BUCKET_ELEMENTS = 500e6  # most gradient elements that are reduced at once
VLLM_SHARE = 0.9  # of a GPU's memory; engine_args.gpu_memory_utilization overrides it
CACHED_PROMPTS = 16  # that the cache should hold at once


@dataclass(frozen=True)
class MemoryNeed:
    """Memory that one worker of a stage needs, in bytes.

    Attributes:
        stage: the stage, with the name of the retriever or teacher.
        model: the model that the worker loads.
        parts: name of a part → its bytes; empty if the model's size is unknown.
        limit: memory that the device has for this worker.
        change: smallest change that makes the worker fit, as `section.field=value`; empty if it fits, or if no change
            was found.
        unknown: what is not known about the model; empty if everything is known.
    """

    stage: str
    model: str
    parts: dict[str, float]
    limit: float
    change: str = ""
    unknown: str = ""

    @property
    def bytes(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the device has enough memory."""
        return self.bytes <= self.limit


def memory_needs(recipe: Recipe, sample: CorpusSample, device: Device) -> list[MemoryNeed]:
    """The memory need of every stage that loads a model, in the order of the stages."""
    needs = _all_needs(recipe, sample, device)
    return [_with_change(need, number, recipe, sample, device) for number, need in enumerate(needs)]


def _all_needs(recipe: Recipe, sample: CorpusSample, device: Device) -> Iterator[MemoryNeed]:
    for section, generation in recipe.sections.items():
        if generation.engine == "vllm":
            yield _generation_need(section.stage, generation, device)
    if judge := recipe.judge:
        yield _generation_need("grades", as_generation(judge), device)
    for name, encoder in recipe.dense_retrievers().items():
        size, pool = model_size(encoder.model), recipe.retrieval.retrievers[name].pool
        yield _need(f"embeddings ({name})", encoder.model, size, _encoder_parts(size, encoder), device, pool)
    for name, teacher in recipe.scoring_teachers().items():
        if recipe.teachers[name].kind == "adapted":
            adapt = recipe.teachers[name].adapting
            size = model_size(str(teacher.model))
            parts = _adapting_parts(size, adapt.micro_batch_tokens)
            yield _need(f"adapting ({name})", str(teacher.model), size, parts, device, _whole_machine(adapt.pool))
        if teacher.kind in MODEL_KINDS:
            size = model_size(str(teacher.model))
            parts = _cross_encoder_parts(size, teacher)
            yield _need(f"scores ({name})", str(teacher.model), size, parts, device, teacher.pool)
        elif own := own_encoder(recipe, teacher):
            size = model_size(own.model)
            yield _need(f"scores ({name})", own.model, size, _encoder_parts(size, own), device, teacher.pool)
    size = model_size(recipe.student.model)
    parts = _training_parts(recipe, sample, size)
    yield _need("training", recipe.student.model, size, parts, device, _whole_machine(recipe.training.pool))
    if sample.judged and recipe.evaluation.pool:
        parts = _encoder_parts(size, recipe.student)
        yield _need("evaluation", recipe.student.model, size, parts, device, recipe.evaluation.pool)


def _generation_need(stage: str, generation: GenerationSettings, device: Device) -> MemoryNeed:
    """What one worker of a vLLM engine needs, on each of its GPUs. A judge in transformers needs no more than that."""
    name, pool, width = str(generation.model), queries.place(generation), generation.tensor_parallel
    share = float(generation.engine_args.get("gpu_memory_utilization", VLLM_SHARE))
    size = model_size(name)
    parts: dict[str, float] = {}
    if size:
        number = bytes_of_number(str(generation.engine_args.get("dtype")), pool.gpus > 0)
        cache = CACHED_PROMPTS * size.cache_bytes(generation.max_model_len or 4096, number)
        parts = {
            "weights": number * size.parameters / width,
            f"cache of {CACHED_PROMPTS} prompts": cache / width,
            "activations": 8192 * size.hidden * FORWARD_BYTES / width,
        }
    vllm_device = replace(device, memory=device.memory * share) if device.is_gpu else device
    one_gpu_pool = pool.model_copy(update={"gpus": min(pool.gpus, 1.0)})
    return _need(stage, name, size, parts, vllm_device, _whole_machine(one_gpu_pool))


def _encoder_parts(size: ModelSize | None, encoder: EncoderSettings) -> dict[str, float]:
    if not size:
        return {}
    return {"weights": 4 * size.parameters, "activations": encoder.batch_tokens * size.hidden * FORWARD_BYTES}


def _cross_encoder_parts(size: ModelSize | None, teacher: TeacherSettings) -> dict[str, float]:
    if not size:
        return {}
    number = bytes_of_number(teacher.dtype, teacher.pool.gpus > 0)
    tokens = teacher.batch_size * teacher.max_tokens
    width = teacher.tensor_parallel
    return {
        "weights": number * size.parameters / width,
        "activations": tokens * size.hidden * FORWARD_BYTES / width,
    }


def _training_parts(recipe: Recipe, sample: CorpusSample, size: ModelSize | None) -> dict[str, float]:
    """Memory of one rank, if it stores the activations of one micro-batch and recomputes those of the others."""
    if not size:
        return {}
    training, lora = recipe.training, recipe.student.lora
    ranks, stage = training.ranks or 1, training.zero_stage
    trained = 4.0 * size.layers * size.hidden * 2 * lora.rank if lora else size.parameters
    batch = global_batch(recipe, sample)
    return {
        "weights": 4 * size.parameters / (ranks if stage == 3 else 1),
        "gradients": 4 * trained / (ranks if stage >= 2 else 1) + 4 * min(trained, BUCKET_ELEMENTS),
        "moments": 8 * trained / (ranks if stage >= 1 else 1),
        "one micro-batch": _micro_batch_bytes(size, training.micro_batch_tokens),
        "embeddings and loss": 3 * 4 * batch.passages * size.hidden
        + CHUNK_COPIES * 4 * min(CHUNK_ELEMENTS, batch.queries * batch.passages),
    }


def _adapting_parts(size: ModelSize | None, tokens: int) -> dict[str, float]:
    """Memory of one rank that fine-tunes a teacher: all activations of one micro-batch are kept."""
    if not size:
        return {}
    weights = 4.0 * size.parameters
    return {
        "weights": weights,
        "gradients": weights + min(weights, 4 * BUCKET_ELEMENTS),
        "moments": 2 * weights,
        "one micro-batch": _micro_batch_bytes(size, tokens),
    }


def _micro_batch_bytes(size: ModelSize, tokens: int) -> float:
    """Bytes that a micro-batch leaves for its backward pass."""
    return tokens * (size.saved or size.layers * size.hidden * BACKWARD_BYTES)


def _whole_machine(pool: PoolSettings) -> PoolSettings:
    """The pool of workers that compute with threads: without a number of them there is one on this machine."""
    return pool if pool.workers else pool.sharing(cores())


def _need(
    stage: str, name: str, size: ModelSize | None, parts: dict[str, float], device: Device, pool: PoolSettings
) -> MemoryNeed:
    """A stage's memory need, with the limit of its device; a CPU's memory is shared by the workers that fit on it."""
    unknown = "" if size and size.layers else "its configuration is not on this machine"
    if not size:
        return MemoryNeed(stage, name, {}, 0.0, unknown=f"{unknown}, and its name does not tell its size")
    on_gpu = pool.gpus > 0
    if on_gpu:
        parts = {**parts, "runtime": RUNTIME_BYTES}
        limit = device.memory * min(1.0, pool.gpus) if device.is_gpu else 0.0
    else:
        places = max(1, int(cores() / pool.cores)) if pool.cores else pool.workers or 1
        workers_here = min(pool.workers or places, places)  # the other workers run on other nodes
        limit = machine_memory().total / workers_here
    return MemoryNeed(stage, name, parts, limit, unknown=unknown)


def _with_change(need: MemoryNeed, number: int, recipe: Recipe, sample: CorpusSample, device: Device) -> MemoryNeed:
    """The need with the first change under which it fits; `number` is its position among all needs."""
    if need.fits:
        return need
    for change, changed in changes(need.stage, recipe):
        if list(_all_needs(changed, sample, device))[number].fits:
            return replace(need, change=change)
    return need
