"""The check of the models that a run loads: in the run, and before it by `listwise plan` and `listwise doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from cluster.errors import InputError
from cluster.machines.hub import is_on_hub
from cluster.run import Run
from cluster.schemas import GRADES
from cluster.settings import PoolSettings
from distill.encoders import check_stage
from distill.settings.encoders import EncoderSettings
from distill.settings.teachers import TEXT_KINDS, TeacherSettings
from generation.checks import stage as language_models
from generation.engines.gguf import gguf_file
from generation.judging.settings import JudgeSettings
from generation.mixture import Section, in_section
from generation.settings import GenerationSettings

if TYPE_CHECKING:
    from launcher.recipe import Recipe

Checked = EncoderSettings | TeacherSettings | GenerationSettings | JudgeSettings
NOT_HERE = "is not on this machine"
BYTES_PER_PARAMETER = 12  # float32 weights, their gradients, and what is computed beside them


def encoders(recipe: Recipe) -> dict[str, tuple[EncoderSettings, PoolSettings]]:
    """Every encoder that a run loads, with the workers that use it, by the section of the recipe; equal ones once.

    The student comes first. It stands for its base, too, which retrieves and teaches where nothing else is named.
    """
    pool = recipe.training.pool
    found: dict[str, tuple[EncoderSettings, PoolSettings]] = {"student": (recipe.student, pool)}
    named = {
        f"retrieval.retrievers.{name}.encoder": (retriever.encoder, retriever.pool)
        for name, retriever in recipe.retrieval.retrievers.items()
        if retriever.kind == "dense"
    } | {
        f"teachers.{name}.encoder": (teacher.encoder, teacher.pool)
        for name, teacher in recipe.teachers.items()
        if teacher.kind == "bi_encoder"
    }
    known = [recipe.student_encoder()]
    for field, (encoder, workers) in named.items():
        if encoder is not None and encoder not in known:
            known.append(encoder)
            found[field] = (encoder, workers)
    return found


def check_in_run(run: Run, recipe: Recipe) -> None:
    """Checks every encoder and language model of a run on a worker, and says what a person should know.

    Raises:
        InputError: one is refused.
    """
    for field, (encoder, pool) in encoders(recipe).items():
        (row,) = check_stage.build(run, field, encoder, pool).read().to_pylist()
        for remark in row["remarks"]:
            run.progress.say(f"{field}: {remark}")
    for section, settings in recipe.sections.items():
        if settings.engine == "vllm" and not _is_finished(run, section.path):
            language_models.build(run, section, settings)
    judged = next((section for section, settings in recipe.sections.items() if settings.judge), None)
    if judged and recipe.judge and not _is_finished(run, GRADES.path):
        language_models.build(run, judged, recipe.judge)


def _is_finished(run: Run, path: str) -> bool:
    """Whether a table needs its model no more."""
    try:
        return run.table(path).sealed()
    except KeyError:
        return False


def checked_models(recipe: Recipe) -> dict[str, Checked]:
    """The encoders of `encoders`, the teachers that read pairs, and language models, by the section of the recipe."""
    probed = {
        f"teachers.{name}": teacher
        for name, teacher in recipe.teachers.items()
        if teacher.kind in TEXT_KINDS and teacher.probe
    }
    writers = {section.field: settings for section, settings in recipe.sections.items() if settings.engine == "vllm"}
    judges = {f"{section.field}.judge": own.judge for section, own in recipe.sections.items() if own.judge}
    known = {field: encoder for field, (encoder, _) in encoders(recipe).items()}
    return {**known, **probed, **writers, **judges}


def check_here(named: Mapping[str, Checked]) -> Iterator[tuple[str, str]]:
    """Checks, in this process, the models whose files are on this machine; yields a sentence for each field.

    Args:
        named: section of the recipe → encoder, teacher, or engine.

    Raises:
        InputError: a model is refused.
    """
    for field, settings in named.items():
        if why := _not_here(settings):
            if why == NOT_HERE and is_on_hub(str(settings.model), settings.revision) is False:
                raise InputError(
                    f"{field}: there is no model '{settings.model}'{_revision(settings)}, neither on this machine nor "
                    "on the hub. Correct the name. A private model needs HF_TOKEN of somebody who may read it."
                )
            yield field, f"{settings.model or 'the server'} {why} and was not tried"
        elif isinstance(settings, TeacherSettings):
            yield field, _probe(field, settings)
        elif isinstance(settings, (GenerationSettings, JudgeSettings)):
            yield field, _read(field, settings)
        else:
            yield field, _check(field, settings)


def _revision(settings: Checked) -> str:
    return f" of revision '{settings.revision}'" if settings.revision else ""


def _not_here(settings: Checked) -> str:
    """Why a model is not tried in this process; empty if it can be."""
    from distill.teachers.load import takes_vllm
    from launcher.plan.models import model_size
    from launcher.plan.tokenizers import model_file

    if isinstance(settings, TeacherSettings):
        if settings.kind == "http":
            return "is asked by the run"
        if takes_vllm(settings):
            return "is computed by vLLM"
    if isinstance(settings, (GenerationSettings, JudgeSettings)) and gguf_file(Path(str(settings.model))):
        return "is a GGUF file, which the run converts,"

    def has(name: str) -> bool:
        return model_file(str(settings.model), name, settings.revision) is not None

    if not (has("modules.json") or has("config.json")):
        return NOT_HERE
    if isinstance(settings, (GenerationSettings, JudgeSettings)):
        has_weights = has("model.safetensors") or has("model.safetensors.index.json")
        return "" if has_weights else "has no weights on this machine"
    size = model_size(str(settings.model))
    if size and size.parameters * BYTES_PER_PARAMETER > psutil.virtual_memory().available:
        return "is too large for the memory of this machine"
    return ""


def _check(field: str, encoder: EncoderSettings) -> str:
    from distill.encoders.check import check_encoder

    try:
        checked = check_encoder(encoder)
    except InputError as error:
        raise InputError(f"{field}: {error}") from error
    remarks = "".join(f"; {remark}" for remark in checked.remarks(encoder))
    return f"{encoder.model} reads and is encoded as by its library ({checked.similarity}){remarks}"


def _read(field: str, settings: GenerationSettings | JudgeSettings) -> str:
    from generation.checks.language_model import check_model

    try:
        found = check_model(settings)
    except InputError as error:
        raise InputError(in_section(str(error), Section(field=field.removesuffix(".judge")))) from error
    context = f"holds {found.context:,} tokens" if found.context else "does not say how many tokens it holds"
    weights = f", and its files hold all of its {found.weights:,} weights" if found.weights else ""
    return f"{settings.model} {context}, writes {' and '.join(found.styles)} prompts{weights}"


def _probe(field: str, teacher: TeacherSettings) -> str:
    from distill.teachers.load import load_scorer
    from distill.teachers.pairs import close
    from distill.teachers.probe import refuse_a_blind

    try:
        scorer = load_scorer(teacher)
    except InputError as error:
        raise InputError(f"{field}: {error}") from error
    try:
        verdict = refuse_a_blind(field.removeprefix("teachers."), scorer)
    finally:
        close(scorer)
    return f"{teacher.model} puts {verdict.right:.0%} of pairs of known answer in the right order"
