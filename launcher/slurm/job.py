"""A recipe as a job: what the script runs, and what is refused before anyone queues for it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import InputError
from cluster.schemas import STAGES
from cluster.settings import PoolSettings
from launcher.placement import TRAINING, pools, refuse_training_in_a_bucket
from launcher.recipe import Recipe
from launcher.slurm.request import Request
from launcher.slurm.script import RUN, TRAIN, fill_in

PLACEMENT = {"ranks", "cpus_per_rank", "gpus_per_rank"}  # what srun decides when training is alone


@dataclass(frozen=True)
class Job:
    """A script, and what its sender should know."""

    script: str
    notes: list[str]


def whole_run(source: str, recipe: Recipe, changes: Sequence[str], until: str, request: Request) -> Job:
    """The job that runs a recipe on Ray.

    Args:
        source: the recipe's file or shipped name, which the job reads again.
        recipe: what `source` and `changes` resolve to.
        changes: `--set` overrides, which the job's driver gets too.
        until: the last stage.
        request: what is asked of SLURM.

    Raises:
        InputError: the recipe cannot run on what is asked for.
    """
    if until not in STAGES:
        raise InputError(f"--until {until}: no such stage; there are {', '.join(STAGES)}")
    refuse_training_in_a_bucket(recipe, until)
    workdir, notes = _shared_workdir(recipe)
    for stage, pool in pools(recipe).items():
        _refuse_what_no_node_holds(stage, pool, request)
    if until in TRAINING:
        _refuse_too_many_ranks(recipe, request)
    file = Path(source).expanduser()
    command = ["listwise", "run", str(file.resolve()) if file.is_file() else source]
    command += [word for change in changes for word in ("--set", change)]
    if workdir != recipe.workdir:
        command += ["--set", f"workdir={_yaml(workdir)}"]
    if until != "evaluation":
        command += ["--until", until]
    options = request.options(recipe.name) | {"ntasks-per-node": 1, "cpus-per-task": request.cpus}
    settings = request.settings(command, workdir) | {"object_store_mib": str(recipe.cluster.object_store_mib)}
    return Job(fill_in(RUN, options, settings), notes + request.notes())


def training_alone(recipe: Recipe, request: Request) -> Job:
    """The job that trains on the lists of a recipe's workdir, without Ray.

    Its output is the workdir too, so that `listwise run` finds the training done, and evaluates it.

    Raises:
        InputError: the recipe cannot be trained on what is asked for.
    """
    refuse_training_in_a_bucket(recipe, "training")
    workdir, notes = _shared_workdir(recipe)
    ranks = _ranks_per_node(recipe, request)
    if request.cpus < ranks:
        raise InputError(f"--cpus-per-node {request.cpus}: a node has {ranks} ranks, and each wants a core at least")
    command = ["listwise", "train", "--lists", workdir, "--student", recipe.student.model, "--output", workdir]
    sections = (("student", recipe.student, {"model"}), ("training", recipe.training, PLACEMENT))
    for section, settings, left_out in sections:
        changed = settings.model_dump(mode="json", exclude_defaults=True, exclude=left_out)
        for name, value in changed.items():
            command += ["--set", f"{section}.{name}={_yaml(value)}"]
    options = request.options(recipe.name) | {"ntasks-per-node": ranks, "cpus-per-task": request.cpus // ranks}
    return Job(fill_in(TRAIN, options, request.settings(command, workdir)), notes + request.notes())


def _shared_workdir(recipe: Recipe) -> tuple[str, list[str]]:
    """The workdir as every node can name it, and what to say of it."""
    if "://" in recipe.workdir:
        return recipe.workdir, []
    workdir = str(Path(recipe.workdir).expanduser().absolute())
    if workdir == recipe.workdir:
        return workdir, []
    return workdir, [f"workdir '{recipe.workdir}' is {workdir}, here and in the job; every node must see it"]


def _refuse_what_no_node_holds(stage: str, pool: PoolSettings, request: Request) -> None:
    for what, wanted, has, option in (
        ("GPUs", pool.gpus, request.gpus_per_node, "--gpus-per-node"),
        ("CPU cores", pool.cpus, request.cpus, "--cpus-per-node"),
    ):
        if wanted > has:
            raise InputError(
                f"stage {stage}: each worker wants {wanted:g} {what}, and a node of this job has {has}. "
                f"Raise {option}, or lower what the recipe asks for a worker."
            )
    if pool.resources:
        raise InputError(
            f"stage {stage}: each worker wants {', '.join(pool.resources)}, which nodes of a SLURM job do not offer. "
            "Leave the pool's `resources` out, or write the script with --output and add --resources to `ray start`."
        )


def _refuse_too_many_ranks(recipe: Recipe, request: Request) -> None:
    """Ray Train waits for ever for ranks that find no place."""
    training = recipe.training
    gpus = request.gpus_per_node / training.gpus_per_rank if training.gpus_per_rank else float("inf")
    cpus = request.cpus / training.cpus_per_rank if training.cpus_per_rank else float("inf")
    holds = min(gpus, cpus)
    if training.ranks and holds < float("inf") and training.ranks > (places := int(holds + 1e-9) * request.nodes):
        raise InputError(
            f"training.ranks is {training.ranks}, and {request.nodes} nodes with {request.gpus_per_node} GPUs and "
            f"{request.cpus} CPU cores each hold {places}. Ask for more nodes, or lower training.ranks."
        )


def _ranks_per_node(recipe: Recipe, request: Request) -> int:
    """One rank a GPU; on CPUs the recipe's ranks, shared evenly."""
    training = recipe.training
    if training.gpus_per_rank > request.gpus_per_node:
        raise InputError(
            f"training.gpus_per_rank is {training.gpus_per_rank:g}, and a node of this job has "
            f"{request.gpus_per_node} GPUs. Raise --gpus-per-node, or lower training.gpus_per_rank."
        )
    if request.gpus_per_node:
        return request.gpus_per_node
    ranks = training.ranks or request.nodes
    if ranks % request.nodes:
        raise InputError(
            f"training.ranks is {ranks}, which {request.nodes} nodes cannot share evenly. Change --nodes or "
            "training.ranks."
        )
    return ranks // request.nodes


def _yaml(value: Any) -> str:
    """A value on one line, as `--set` reads it; JSON is YAML."""
    if isinstance(value, str) and re.fullmatch(r"[\w./-]+", value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)
