"""Checks of a recipe that runs on other machines: on a Ray cluster or on Kubernetes.

A path must mean the same on every machine. Otherwise it is refused before anything starts.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from pathlib import Path

from cluster.errors import InputError
from launcher.recipe import Recipe

NAME_LENGTH = 40  # characters; Ray and KubeRay add suffixes to a name


def label(name: str) -> str:
    """A name that Kubernetes accepts (RFC 1123 label that begins with a letter), as similar to `name` as possible."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    plain = plain if plain[:1].isalpha() else f"run-{plain}"
    return plain[:NAME_LENGTH].strip("-")


def is_label(name: str) -> bool:
    """Whether Kubernetes accepts this name for a claim or a secret (RFC 1123 subdomain)."""
    part = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
    return len(name) <= 253 and re.fullmatch(rf"{part}(\.{part})*", name) is not None


def workdir_digest(workdir: str) -> str:
    """Eight hex digits that name a workdir; different spellings of one path give the same digits."""
    normal = workdir.rstrip("/") if "://" in workdir else posixpath.normpath(workdir)
    return hashlib.sha256(normal.encode()).hexdigest()[:8]


def check_workdir(recipe: Recipe) -> None:
    """Checks that every node finds the workdir, which is the state of the run, at the same path.

    Raises:
        InputError: the workdir is relative, or inside a home directory.
    """
    if "://" in recipe.workdir or recipe.workdir.startswith("/"):
        return
    raise InputError(
        f"workdir '{recipe.workdir}' is not absolute: on the cluster it would be in a temporary folder of the job, "
        "which is deleted with the job. Name a folder that every node sees, or a bucket, for example "
        f"--set workdir=/mnt/shared/{Path(recipe.workdir).name or 'run'}"
    )


def local_inputs(recipe: Recipe) -> dict[str, str]:
    """Every file or folder that a recipe names, by field; without hub ids, urls and packaged models."""
    inputs = {"corpus.path": recipe.corpus.path, "corpus.query_log": recipe.corpus.query_log}
    if judged := recipe.corpus.judged_queries:
        inputs["corpus.judged_queries.dataset"] = judged.dataset
    inputs["evaluation.dataset"] = recipe.evaluation.dataset
    for section, generation in recipe.sections.items():
        inputs[f"{section.field}.types_folder"] = generation.types_folder
        inputs[f"{section.field}.examples_file"] = generation.examples_file
        if generation.judge:
            inputs[f"{section.field}.judge.rubric"] = generation.judge.rubric
    inputs |= {f"teachers.{name}.path": teacher.path for name, teacher in recipe.teachers.items()}
    files = {field: path for field, path in inputs.items() if path and "://" not in path}
    return files | {field: model.name for field, model in recipe.models().items() if _is_path(model.name)}


def relative_inputs(recipe: Recipe) -> dict[str, str]:
    """The inputs whose paths depend on the current folder or on the home directory."""
    return {field: path for field, path in local_inputs(recipe).items() if not path.startswith("/")}


def _is_path(model: str) -> bool:
    """Whether a model is a path and not a hub id, by the same rule as `distill.encoders.loading.resolve_model`."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or Path(model).exists()
