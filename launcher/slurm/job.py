"""A recipe as a SLURM job: the command that the script runs, and the checks before the job waits in the queue."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import InputError
from cluster.overwrite import refuse_unknown
from cluster.settings import PoolSettings
from launcher.placement import TRAINING, pools, refuse_training_in_a_bucket
from launcher.recipe import Recipe
from launcher.slurm.request import Request
from launcher.slurm.script import RUN, TRAIN, fill_in

PLACEMENT = {"ranks", "cpus_per_rank", "gpus_per_rank"}  # srun decides these when the job only trains


@dataclass(frozen=True)
class Job:
    """The script of a job, and notes for the person who submits it."""

    script: str
    notes: list[str]


def whole_run(source: str, recipe: Recipe, changes: Sequence[str], until: str, request: Request) -> Job:
    """The job that runs a recipe on Ray.

    Args:
        source: file or shipped name of the recipe, which the job reads again.
        recipe: the recipe that `source` and `changes` resolve to.
        changes: `--set` overrides, which the job's driver gets too.
        until: the last stage.
        request: the nodes and the time.

    Raises:
        InputError: the recipe cannot run on these nodes.
    """
    refuse_unknown("--until", [until])
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
    """The job that only trains, on the lists of a recipe's workdir, without Ray.

    It writes into the same workdir, so that `listwise run` finds the training done and evaluates the student.

    Raises:
        InputError: the training cannot run on these nodes.
    """
    refuse_training_in_a_bucket(recipe, "training")
    workdir, notes = _shared_workdir(recipe)
    ranks = _ranks_per_node(recipe, request)
    if request.cpus < ranks:
        raise InputError(f"--cpus-per-node {request.cpus}: a node has {ranks} ranks, and each needs at least one core")
    command = ["listwise", "train", "--lists", workdir, "--student", recipe.student.model, "--output", workdir]
    sections = (("student", recipe.student, {"model"}), ("training", recipe.training, PLACEMENT))
    for section, settings, excluded in sections:
        changed = settings.model_dump(mode="json", exclude_defaults=True, exclude=excluded)
        for name, value in changed.items():
            command += ["--set", f"{section}.{name}={_yaml(value)}"]
    options = request.options(recipe.name) | {"ntasks-per-node": ranks, "cpus-per-task": request.cpus // ranks}
    return Job(fill_in(TRAIN, options, request.settings(command, workdir)), notes + request.notes())


def _shared_workdir(recipe: Recipe) -> tuple[str, list[str]]:
    """The absolute path of the workdir, and a note if the recipe names it otherwise."""
    if "://" in recipe.workdir:
        return recipe.workdir, []
    workdir = str(Path(recipe.workdir).expanduser().absolute())
    if workdir == recipe.workdir:
        return workdir, []
    return workdir, [f"workdir '{recipe.workdir}' is {workdir}, here and in the job; every node must see this folder"]


def _refuse_what_no_node_holds(stage: str, pool: PoolSettings, request: Request) -> None:
    for resource, needed, available, option in (
        ("GPUs", pool.gpus, request.gpus_per_node, "--gpus-per-node"),
        ("CPU cores", pool.cores, request.cpus, "--cpus-per-node"),
    ):
        if needed > available:
            raise InputError(
                f"stage {stage}: each worker wants {needed:g} {resource}, and a node of this job has {available}. "
                f"Raise {option}, or lower the resources of a worker in the recipe."
            )
    if pool.resources:
        raise InputError(
            f"stage {stage}: each worker wants {', '.join(pool.resources)}, which nodes of a SLURM job do not offer. "
            "Remove the pool's `resources`, or write the script with --output and add --resources to `ray start`."
        )


def _refuse_too_many_ranks(recipe: Recipe, request: Request) -> None:
    """Refuses more training ranks than the nodes hold, because Ray Train would wait for them without end."""
    training = recipe.training
    gpus = request.gpus_per_node / training.gpus_per_rank if training.gpus_per_rank else float("inf")
    cpus = request.cpus / training.pool.cores if training.pool.cores else float("inf")
    ranks_per_node = min(gpus, cpus)
    if not training.ranks or ranks_per_node == float("inf"):
        return
    if training.ranks > (places := int(ranks_per_node + 1e-9) * request.nodes):
        raise InputError(
            f"training.ranks is {training.ranks}, and {request.nodes} nodes with {request.gpus_per_node} GPUs and "
            f"{request.cpus} CPU cores each hold {places}. Ask for more nodes, or lower training.ranks."
        )


def _ranks_per_node(recipe: Recipe, request: Request) -> int:
    """The ranks of each node: one for each GPU; on CPUs, the recipe's ranks divided evenly."""
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
    """A value as YAML on one line, as `--set` reads it; JSON is valid YAML."""
    if isinstance(value, str) and re.fullmatch(r"[\w./-]+", value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)
