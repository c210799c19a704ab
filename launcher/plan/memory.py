"""What each worker needs of its device's memory; where that is too much, the smallest change of the recipe that fits.

Weights, gradients and moments are exact. Activations follow Korthikanti et al. (arXiv 2205.05198, eq. 2): 34 bytes a
token, layer and dimension in 16 bits, where attention keeps no scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from cluster.machines.memory import machine_memory
from cluster.settings import PoolSettings
from distill.losses.batch import CHUNK_ELEMENTS
from distill.settings import EncoderSettings, LoraSettings, TeacherSettings
from generation import queries
from launcher.environment import cores
from launcher.plan.corpus import CHARACTERS_PER_TOKEN, Sample
from launcher.plan.devices import GIB, Device
from launcher.plan.models import Model, model
from launcher.plan.work import global_batch, own_encoder
from launcher.recipe import Recipe

KEPT = 34  # bytes a token and dimension that each layer keeps for backward
PASSING = 24  # bytes a token and dimension of one layer that is passed through
RUNTIME = 1.0 * GIB  # CUDA's own, and fragments
CHUNK_COPIES = 6  # of a chunk of the loss's similarities, with its gradient
BUCKET = 500e6  # elements of gradients that are reduced at once, at most
VLLM_SHARE = 0.9  # of a GPU, unless engine_args.gpu_memory_utilization says otherwise
EXAMPLES = 400  # tokens of a prompt before the passage, at most
SPACE_FOR = 16  # prompts that the cache should hold at once


@dataclass(frozen=True)
class Need:
    """Memory of one worker of a stage, in bytes.

    Attributes:
        stage: with the name of the retriever or teacher.
        model: whose.
        parts: what it consists of.
        limit: of the device, for this worker.
        change: the smallest change that fits, as `section.field=value`; empty where it fits or where none was found.
        unknown: why it cannot be told, if so.
    """

    stage: str
    model: str
    parts: dict[str, float]
    limit: float
    change: str = ""
    unknown: str = ""

    @property
    def bytes(self) -> float:
        """Of all parts."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the device has it."""
        return self.bytes <= self.limit


def needs(recipe: Recipe, sample: Sample, device: Device) -> list[Need]:
    """Of every stage that loads a model, in order."""
    return [
        _with_change(need, number, recipe, sample, device) for number, need in enumerate(_needs(recipe, sample, device))
    ]


def _needs(recipe: Recipe, sample: Sample, device: Device) -> Iterator[Need]:
    generation = recipe.generation
    if generation.engine == "vllm":
        name, pool = str(generation.model), queries.place(generation)
        share = float(generation.engine_args.get("gpu_memory_utilization", VLLM_SHARE))
        found = model(name)
        parts: dict[str, float] = {}
        if found:
            length = generation.max_model_len or 4096
            parts = {
                "weights": 2 * found.parameters / generation.tensor_parallel,
                f"cache of {SPACE_FOR} prompts": SPACE_FOR * found.cache_bytes(length) / generation.tensor_parallel,
                "activations": 8192 * found.hidden * PASSING / generation.tensor_parallel,
            }
        one_gpu = replace(device, memory=device.memory * share) if device.is_gpu else device
        each = pool.model_copy(update={"gpus": min(pool.gpus, 1.0)})
        yield _need("queries", name, found, parts, one_gpu, each)
    for name, encoder in recipe.dense_retrievers().items():
        found = model(encoder.model)
        yield _need(
            f"embeddings ({name})", encoder.model, found, _encoder(found, encoder), device,
            recipe.retrieval.retrievers[name].pool,
        )  # fmt: skip
    for name, teacher in recipe.teachers.items():
        if teacher.kind == "cross_encoder":
            found = model(str(teacher.model))
            parts = _cross_encoder(found, teacher)
            yield _need(f"scores ({name})", str(teacher.model), found, parts, device, teacher.pool)
        elif own := own_encoder(recipe, teacher):
            found = model(own.model)
            yield _need(f"scores ({name})", own.model, found, _encoder(found, own), device, teacher.pool)
    found = model(recipe.student.model)
    parts = _training(recipe, sample, found)
    yield _need("training", recipe.student.model, found, parts, device, recipe.training.pool)
    if sample.judged and recipe.evaluation.pool:
        parts = _encoder(found, recipe.student)
        yield _need("evaluation", recipe.student.model, found, parts, device, recipe.evaluation.pool)


def _encoder(found: Model | None, encoder: EncoderSettings) -> dict[str, float]:
    if not found:
        return {}
    return {"weights": 4 * found.parameters, "activations": encoder.batch_tokens * found.hidden * PASSING}


def _cross_encoder(found: Model | None, teacher: TeacherSettings) -> dict[str, float]:
    if not found:
        return {}
    size = 4 if teacher.dtype == "float32" else 2
    tokens = teacher.batch_size * teacher.max_tokens
    return {"weights": size * found.parameters, "activations": tokens * found.hidden * PASSING}


def _training(recipe: Recipe, sample: Sample, found: Model | None) -> dict[str, float]:
    """Of one rank, every activation beyond one micro-batch recomputed."""
    if not found:
        return {}
    training, lora = recipe.training, recipe.student.lora
    ranks, stage = training.ranks or 1, training.zero_stage
    trained = 4.0 * found.layers * found.hidden * 2 * lora.rank if lora else found.parameters
    batch = global_batch(recipe, sample)
    return {
        "weights": 4 * found.parameters / (ranks if stage == 3 else 1),
        "gradients": 4 * trained / (ranks if stage >= 2 else 1) + 4 * min(trained, BUCKET),
        "moments": 8 * trained / (ranks if stage >= 1 else 1),
        "one micro-batch": training.micro_batch_tokens * found.layers * found.hidden * KEPT,
        "embeddings and loss": 3 * 4 * batch.passages * found.hidden
        + CHUNK_COPIES * 4 * min(CHUNK_ELEMENTS, batch.queries * batch.passages),
    }


def _need(
    stage: str, name: str, found: Model | None, parts: dict[str, float], device: Device, pool: PoolSettings
) -> Need:
    unknown = "" if found and found.layers else "its configuration is not on this machine"
    if not found:
        return Need(stage, name, {}, 0.0, unknown=f"{unknown}, and its name tells no size")
    on_gpu = pool.gpus > 0
    if on_gpu:
        parts = {**parts, "runtime": RUNTIME}
        limit = device.memory * min(1.0, pool.gpus) if device.is_gpu else 0.0
    else:
        room = max(1, int(cores() / pool.cpus)) if pool.cpus else pool.workers or 1
        at_once = min(pool.workers or room, room)  # the others are on other nodes
        limit = machine_memory().total / at_once
    return Need(stage, name, parts, limit, unknown=unknown)


def _with_change(need: Need, number: int, recipe: Recipe, sample: Sample, device: Device) -> Need:
    if need.fits:
        return need
    for change, changed in _changes(need.stage, recipe):
        if list(_needs(changed, sample, device))[number].fits:
            return replace(need, change=change)
    return need


def _changes(stage: str, recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Changes of one field each, the smallest first."""
    name = stage.partition("(")[2].rstrip(")")
    if stage == "queries":
        generation = recipe.generation
        length = generation.max_model_len or 4096
        longest = generation.prompt_characters / CHARACTERS_PER_TOKEN + EXAMPLES + generation.max_tokens
        for shorter in (each for each in (length // 2, length // 4) if each >= longest):
            yield _changed(recipe, "generation", {"max_model_len": shorter})
        for width in (2, 4, 8):
            yield _changed(recipe, "generation", {"tensor_parallel": width})
    elif stage.startswith("embeddings"):
        retriever = recipe.retrieval.retrievers[name]
        encoder = retriever.encoder or recipe.student_encoder()
        for smaller in _smaller_batches(encoder):
            changed = {**recipe.retrieval.retrievers, name: retriever.model_copy(update={"encoder": smaller})}
            retrieval = recipe.retrieval.model_copy(update={"retrievers": changed})
            field = f"retrieval.retrievers.{name}.encoder" if retriever.encoder else "student"
            change = f"{field}.batch_tokens={smaller.batch_tokens}"
            yield change, recipe.model_copy(update={"retrieval": retrieval})
    elif stage.startswith("scores"):
        teacher = recipe.teachers[name]
        if own := own_encoder(recipe, teacher):
            field = f"teachers.{name}.encoder" if teacher.encoder else "student"
            for smaller in _smaller_batches(own):
                fewer = {**recipe.teachers, name: teacher.model_copy(update={"encoder": smaller})}
                yield f"{field}.batch_tokens={smaller.batch_tokens}", recipe.model_copy(update={"teachers": fewer})
            return
        size = teacher.batch_size // 2
        while size:
            fewer = {**recipe.teachers, name: teacher.model_copy(update={"batch_size": size})}
            yield f"teachers.{name}.batch_size={size}", recipe.model_copy(update={"teachers": fewer})
            size //= 2
    elif stage == "evaluation":
        for smaller in _smaller_batches(recipe.student):
            yield _changed(recipe, "student", {"batch_tokens": smaller.batch_tokens})
    else:
        yield from _training_changes(recipe)


def _smaller_batches(encoder: EncoderSettings) -> Iterator[EncoderSettings]:
    for divisor in (2, 4, 8, 16):
        yield encoder.model_copy(update={"batch_tokens": encoder.batch_tokens // divisor})


def _training_changes(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    training = recipe.training
    for divisor in (2, 4, 8):
        yield _changed(recipe, "training", {"micro_batch_tokens": training.micro_batch_tokens // divisor})
    for stage in range(training.zero_stage + 1, 4):
        yield _changed(recipe, "training", {"zero_stage": stage})
    smallest = {"micro_batch_tokens": max(64, training.micro_batch_tokens // 8)}
    for stage in range(training.zero_stage + 1, 4):
        yield _changed(recipe, "training", {**smallest, "zero_stage": stage})
    if not recipe.student.lora:
        yield _changed(recipe, "student", {"lora": LoraSettings()})
        both = recipe.model_copy(update={"training": training.model_copy(update={**smallest, "zero_stage": 3})})
        change, changed = _changed(both, "student", {"lora": LoraSettings()})
        yield f"training.micro_batch_tokens={smallest['micro_batch_tokens']}, training.zero_stage=3, {change}", changed


def _changed(recipe: Recipe, section: str, fields: dict[str, object]) -> tuple[str, Recipe]:
    words = [
        f"{section}.{key}={value.model_dump(exclude_defaults=True) if isinstance(value, LoraSettings) else value}"
        for key, value in fields.items()
    ]
    changed = getattr(recipe, section).model_copy(update=fields)
    return ", ".join(words), recipe.model_copy(update={section: changed})
