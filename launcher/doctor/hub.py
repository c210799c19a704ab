"""Checks of the model hub and its cache: can this machine load the models that a recipe names, and from where?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import InputError
from cluster.machines.hub import ModelName, hub_problem, is_on_hub
from launcher.doctor.finding import Finding

if TYPE_CHECKING:
    from launcher.model_checks import Checked


def check_hub() -> Finding:
    """Checks whether the hub answers, and counts the models in its cache."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    count = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    cached = f"{count} {'model' if count == 1 else 'models'} in the cache {cache}"
    if constants.is_offline_mode():
        return Finding("ok", "model hub", f"offline (HF_HUB_OFFLINE); {cached}")
    problem = hub_problem()
    if not problem:
        return Finding("ok", "model hub", f"{constants.ENDPOINT} answers; {cached}")
    return Finding(
        "warning",
        "model hub",
        f"{constants.ENDPOINT} {problem}; {cached}",
        "name folders as models; or fill the cache on another machine, copy it here (HF_HOME) and set HF_HUB_OFFLINE=1",
    )


def check_models(models: Mapping[str, ModelName]) -> Iterator[Finding]:
    """Checks for each model whether this machine can load it.

    Args:
        models: field of the recipe → folder, packaged name or hub id, with its revision.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    from distill.encoders.loading import resolve_model
    from generation.engines.models import find_model

    for field, model in models.items():
        try:
            find = find_model if field.startswith("generation") else resolve_model
            source = str(find(*model) or model.name)
        except InputError as error:
            yield Finding("failure", "model", f"{field}: {error}", "copy it to the same path on every node")
            continue
        if Path(source).exists():
            yield Finding("ok", "model", f"{field}: {source}")
            continue
        of_revision = f" of revision '{model.revision}'" if model.revision else ""
        named = f"{field}: {source}{of_revision}"
        if isinstance(try_to_load_from_cache(source, "config.json", revision=model.revision), str):
            yield Finding("ok", "model", f"{named}, in the cache")
        elif constants.is_offline_mode():
            remedy = "download it on a machine that has a network (hf download), and copy HF_HOME here"
            yield Finding("failure", "model", f"{named} is not in the cache, and the hub is off", remedy)
        elif problem := hub_problem():
            remedy = "name a folder of this machine, or copy a cache that holds the model (HF_HOME)"
            yield Finding("failure", "model", f"{named} is not in the cache, and the hub {problem}", remedy)
        elif is_on_hub(source, model.revision) is False:
            remedy = "correct the name; a private model needs HF_TOKEN of somebody who may read it"
            yield Finding("failure", "model", f"{field}: the hub has no model '{source}'{of_revision}", remedy)
        else:
            yield Finding("ok", "model", f"{named}, from the hub")


def try_models(models: Mapping[str, Checked]) -> Iterator[Finding]:
    """Tries every encoder, teacher and language model of a recipe that is on this machine."""
    from launcher.model_checks import check_here

    for field, settings in models.items():
        try:
            for _, found in check_here({field: settings}):
                yield Finding("ok", "model tried", f"{field}: {found}")
        except InputError as error:
            yield Finding("failure", "model tried", str(error), "name another model, or correct its files")
