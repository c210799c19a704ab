"""Changes of a recipe that save memory in a stage, the smallest first."""

from __future__ import annotations

from collections.abc import Iterator

from distill.settings.encoders import EncoderSettings, LoraSettings
from generation.settings import GenerationSettings
from launcher.plan.tokenizers import CHARACTERS_PER_TOKEN
from launcher.plan.work import own_encoder
from launcher.recipe import Recipe

EXAMPLE_TOKENS = 400  # most tokens of a prompt before the passage


def changes(stage: str, recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Changes of the recipe that save memory in a stage, the smallest first; most of them change one field."""
    name = stage.partition("(")[2].rstrip(")")
    if generation := next((own for section, own in recipe.sections.items() if section.stage == stage), None):
        yield from _generation_changes(recipe, stage, generation)
    elif stage == "grades":
        yield from _judge_changes(recipe)
    elif stage.startswith("embeddings"):
        retriever = recipe.retrieval.retrievers[name]
        encoder = retriever.encoder or recipe.student_encoder()
        for smaller in _smaller_batches(encoder):
            retrievers = {**recipe.retrieval.retrievers, name: retriever.model_copy(update={"encoder": smaller})}
            retrieval = recipe.retrieval.model_copy(update={"retrievers": retrievers})
            field = f"retrieval.retrievers.{name}.encoder" if retriever.encoder else "student"
            change = f"{field}.batch_tokens={smaller.batch_tokens}"
            yield change, recipe.model_copy(update={"retrieval": retrieval})
    elif stage.startswith("scores"):
        teacher = recipe.teachers[name]
        if own := own_encoder(recipe, teacher):
            field = f"teachers.{name}.encoder" if teacher.encoder else "student"
            for smaller in _smaller_batches(own):
                teachers = {**recipe.teachers, name: teacher.model_copy(update={"encoder": smaller})}
                yield f"{field}.batch_tokens={smaller.batch_tokens}", recipe.model_copy(update={"teachers": teachers})
            return
        size = teacher.batch_size // 2
        while size:
            teachers = {**recipe.teachers, name: teacher.model_copy(update={"batch_size": size})}
            yield f"teachers.{name}.batch_size={size}", recipe.model_copy(update={"teachers": teachers})
            size //= 2
    elif stage.startswith("adapting"):
        yield from _adapting_changes(recipe, name)
    elif stage == "evaluation":
        for smaller in _smaller_batches(recipe.student):
            yield _changed(recipe, "student", {"batch_tokens": smaller.batch_tokens})
    else:
        yield from _training_changes(recipe)


def _generation_changes(recipe: Recipe, stage: str, generation: GenerationSettings) -> Iterator[tuple[str, Recipe]]:
    length = generation.max_model_len or 4096
    longest = generation.prompt_characters / CHARACTERS_PER_TOKEN + EXAMPLE_TOKENS + generation.max_tokens
    for shorter in (shorter for shorter in (length // 2, length // 4) if shorter >= longest):
        yield _changed_generation(recipe, stage, {"max_model_len": shorter})
    for width in (2, 4, 8):
        yield _changed_generation(recipe, stage, {"tensor_parallel": width})


def _judge_changes(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    judge = recipe.judge
    assert judge is not None, "there are grades"
    length = judge.max_model_len or 4096
    longest = judge.prompt_characters / CHARACTERS_PER_TOKEN + EXAMPLE_TOKENS
    for shorter in (shorter for shorter in (length // 2, length // 4) if shorter >= longest):
        yield _changed_judge(recipe, {"max_model_len": shorter})
    if judge.engine == "vllm":
        for width in (2, 4, 8):
            yield _changed_judge(recipe, {"tensor_parallel": width})


def _adapting_changes(recipe: Recipe, name: str) -> Iterator[tuple[str, Recipe]]:
    teacher = recipe.teachers[name]
    for divisor in (2, 4, 8):
        tokens = teacher.adapting.micro_batch_tokens // divisor
        adapt = teacher.adapting.model_copy(update={"micro_batch_tokens": tokens})
        teachers = {**recipe.teachers, name: teacher.model_copy(update={"adapt": adapt})}
        yield f"teachers.{name}.adapt.micro_batch_tokens={tokens}", recipe.model_copy(update={"teachers": teachers})


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
        least_memory = training.model_copy(update={**smallest, "zero_stage": 3})
        change, changed = _changed(
            recipe.model_copy(update={"training": least_memory}), "student", {"lora": LoraSettings()}
        )
        yield f"training.micro_batch_tokens={smallest['micro_batch_tokens']}, training.zero_stage=3, {change}", changed


def _changed_generation(recipe: Recipe, stage: str, fields: dict[str, object]) -> tuple[str, Recipe]:
    """As `_changed`, for the section that writes queries in a stage."""
    sections = {
        section: own.model_copy(update=fields) if section.stage == stage else own
        for section, own in recipe.sections.items()
    }
    field = next(section.field for section in sections if section.stage == stage)
    several = tuple(sections.values())
    update = {"generation": several if len(several) > 1 else several[0]}
    return ", ".join(f"{field}.{key}={value}" for key, value in fields.items()), recipe.model_copy(update=update)


def _changed_judge(recipe: Recipe, fields: dict[str, object]) -> tuple[str, Recipe]:
    """As `_changed`, for the judge of all sections that name it."""
    changed = [
        own.model_copy(update={"judge": own.judge.model_copy(update=fields)}) if own.judge else own
        for own in recipe.sections.values()
    ]
    judges = [section.field for section, own in recipe.sections.items() if own.judge]
    words = ", ".join(f"{field}.judge.{key}={value}" for field in judges for key, value in fields.items())
    update = {"generation": tuple(changed) if len(changed) > 1 else changed[0]}
    return words, recipe.model_copy(update=update)


def _changed(recipe: Recipe, section: str, fields: dict[str, object]) -> tuple[str, Recipe]:
    """A change of some fields of a section: as `--set` takes it, and the changed recipe."""
    words = [
        f"{section}.{key}={value.model_dump(exclude_defaults=True) if isinstance(value, LoraSettings) else value}"
        for key, value in fields.items()
    ]
    changed = getattr(recipe, section).model_copy(update=fields)
    return ", ".join(words), recipe.model_copy(update={section: changed})
