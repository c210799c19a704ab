"""What must hold of a recipe that runs elsewhere than where it was written, on a Ray cluster or on Kubernetes.

The one idea: a path means the same on every machine, or it is refused before anything starts.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from pathlib import Path

from cluster.errors import InputError
from launcher.recipe import Recipe

NAME_LENGTH = 40  # of names that Ray or KubeRay lengthen by suffixes of their own


def label(name: str) -> str:
    """A name as Kubernetes takes it (RFC 1123 label that begins with a letter), as near to `name` as possible."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    plain = plain if plain[:1].isalpha() else f"run-{plain}"
    return plain[:NAME_LENGTH].strip("-")


def is_label(name: str) -> bool:
    """Whether Kubernetes takes this name of a claim or a secret as it is (RFC 1123 subdomain)."""
    part = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
    return len(name) <= 253 and re.fullmatch(rf"{part}(\.{part})*", name) is not None


def workdir_digest(workdir: str) -> str:
    """Short name of a workdir, the same for every way to write it."""
    normal = workdir.rstrip("/") if "://" in workdir else posixpath.normpath(workdir)
    return hashlib.sha256(normal.encode()).hexdigest()[:8]


def check_workdir(recipe: Recipe) -> None:
    """The workdir is the state of a run, so every node has to find it at the same place.

    Raises:
        InputError: it is relative, or under a home directory.
    """
    if "://" in recipe.workdir or recipe.workdir.startswith("/"):
        return
    raise InputError(
        f"workdir '{recipe.workdir}' is not absolute: on the cluster it would lie in a temporary folder of the job and "
        "vanish with it. Name a folder that every node sees, or a bucket, for example "
        f"--set workdir=/mnt/shared/{Path(recipe.workdir).name or 'run'}"
    )


def local_inputs(recipe: Recipe) -> dict[str, str]:
    """Every file or folder that a recipe names, by field; hub ids, urls and packaged models are none."""
    inputs = {"corpus.path": recipe.corpus.path, "corpus.query_log": recipe.corpus.query_log}
    inputs["evaluation.dataset"] = recipe.evaluation.dataset
    inputs["generation.types_folder"] = recipe.generation.types_folder
    inputs["generation.examples_file"] = recipe.generation.examples_file
    found = {field: path for field, path in inputs.items() if path and "://" not in path}
    return found | {field: model for field, model in _models(recipe).items() if _is_path(model)}


def relative_inputs(recipe: Recipe) -> dict[str, str]:
    """The inputs whose place depends on the folder, or the home, that a command runs in."""
    return {field: path for field, path in local_inputs(recipe).items() if not path.startswith("/")}


def _models(recipe: Recipe) -> dict[str, str]:
    models = {"student.model": recipe.student.model}
    if recipe.generation.engine == "vllm" and recipe.generation.model:
        models["generation.model"] = recipe.generation.model
    for name, retriever in recipe.retrieval.retrievers.items():
        if retriever.encoder:
            models[f"retrieval.retrievers.{name}.encoder.model"] = retriever.encoder.model
    for name, teacher in recipe.teachers.items():
        if teacher.model:
            models[f"teachers.{name}.model"] = teacher.model
        if teacher.encoder:
            models[f"teachers.{name}.encoder.model"] = teacher.encoder.model
    return models


def _is_path(model: str) -> bool:
    """As `distill.encoders.encoder.resolve_model` tells paths from ids of the hub."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or Path(model).is_dir()
