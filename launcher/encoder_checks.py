"""Which encoders a run loads, and their check: in the run, and before it by `listwise plan` and `listwise doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import psutil

from cluster.errors import InputError
from cluster.run import Run
from cluster.settings import PoolSettings
from distill.encoders import check_stage
from distill.settings.encoders import EncoderSettings

if TYPE_CHECKING:
    from launcher.recipe import Recipe

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


def checked_encoders(recipe: Recipe) -> dict[str, EncoderSettings]:
    """The encoders of `encoders` alone."""
    return {field: encoder for field, (encoder, _) in encoders(recipe).items()}


def check_in_run(run: Run, recipe: Recipe) -> None:
    """Checks every encoder of a run on a worker, and says what a person should know.

    Raises:
        InputError: an encoder is refused.
    """
    for field, (encoder, pool) in encoders(recipe).items():
        (row,) = check_stage.build(run, field, encoder, pool).read().to_pylist()
        for remark in row["remarks"]:
            run.progress.say(f"{field}: {remark}")


def check_here(named: Mapping[str, EncoderSettings]) -> Iterator[tuple[str, str]]:
    """Checks, in this process, the encoders whose files are on this machine; yields a sentence for each field.

    Args:
        named: section of the recipe → encoder.

    Raises:
        InputError: an encoder is refused.
    """
    from distill.encoders.check import check_encoder
    from launcher.plan.models import model_size
    from launcher.plan.tokenizers import model_file

    for field, encoder in named.items():
        if model_file(encoder.model, "modules.json") is None and model_file(encoder.model, "config.json") is None:
            yield field, f"{encoder.model} is not on this machine and was not tried"
            continue
        size = model_size(encoder.model)
        if size and size.parameters * BYTES_PER_PARAMETER > psutil.virtual_memory().available:
            yield field, f"{encoder.model} is too large for the memory of this machine and was not tried"
            continue
        try:
            checked = check_encoder(encoder)
        except InputError as error:
            raise InputError(f"{field}: {error}") from error
        remarks = "".join(f"; {remark}" for remark in checked.remarks(encoder))
        yield field, f"{encoder.model} reads and is encoded as by its library ({checked.similarity}){remarks}"
