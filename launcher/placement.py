"""Checks, before the first stage starts, that the cluster and the workdir can hold all stages of a recipe."""

from __future__ import annotations

from cluster.errors import InputError
from cluster.run import Run
from cluster.schemas import STAGES
from cluster.settings import PoolSettings
from distill.teachers.load import place, takes_vllm
from generation import queries
from generation.judging import stage as judging
from launcher.recipe import Recipe

TRAINING = ("training", "evaluation")  # a run whose last stage is one of these trains a student


def pools(recipe: Recipe) -> dict[str, PoolSettings]:
    """Every worker pool of a run, by stage."""
    evaluation_pool = recipe.evaluation.pool
    return {
        "corpus, candidates and lists": recipe.cluster.io_pool,
        **{section.stage: queries.place(generation) for section, generation in recipe.sections.items()},
        **({"grades": judging.place(recipe.judge)} if recipe.judge else {}),
        **{f"embeddings ({name})": recipe.retrieval.retrievers[name].pool for name in recipe.dense_retrievers()},
        **{f"scores ({name})": place(teacher) for name, teacher in recipe.teachers.items()},
        **{
            f"adapting ({name})": teacher.adapting.pool
            for name, teacher in recipe.teachers.items()
            if teacher.kind == "adapted"
        },
        "training": recipe.training.pool,
        **({"evaluation": evaluation_pool} if evaluation_pool and recipe.evaluation.dataset else {}),
    }


def threaded(recipe: Recipe) -> set[str]:
    """The stages of `pools` whose workers compute with as many threads as they hold cores."""
    writers = {section.stage for section, generation in recipe.sections.items() if generation.engine == "vllm"}
    scorers = {f"scores ({name})" for name, teacher in recipe.teachers.items() if takes_vllm(teacher)}
    return {"training", "grades", *writers, *scorers}


def demanding_pools(recipe: Recipe) -> dict[str, PoolSettings]:
    """Pools whose workers need GPUs or custom resources, by stage."""
    return {stage: pool for stage, pool in pools(recipe).items() if pool.gpus or pool.resources}


def refuse_what_no_node_holds(run: Run, recipe: Recipe) -> None:
    """Refuses a stage that no node can run; otherwise the error would come after hours of the stages before it.

    Raises:
        InputError: no node can hold a worker of a stage; the message names what it needs and what each node has.
    """
    demanding = demanding_pools(recipe)
    if demanding and not run.storage.exists("training/record.json"):
        run.check(demanding)


def refuse_training_in_a_bucket(recipe: Recipe, last: str) -> None:
    """Refuses to train in an object store, because training ranks read and write checkpoints as files.

    Raises:
        InputError: the workdir is on an object store, and `last`, the run's last stage, is training or evaluation.
    """
    if "://" not in recipe.workdir or recipe.workdir.startswith("file://"):
        return
    adapted = [name for name, teacher in recipe.teachers.items() if teacher.kind == "adapted"]
    if adapted and list(STAGES).index(last) >= list(STAGES).index("scores"):
        raise InputError(
            f"workdir '{recipe.workdir}': teachers.{adapted[0]} is trained in the run, which needs a folder that every "
            "node can write to, and this is an object store. Name a folder of a shared file system "
            "(--set workdir=…), or stop before the scores: --until candidates"
        )
    if last in TRAINING:
        raise InputError(
            f"workdir '{recipe.workdir}': training needs a folder that every node can write to, and this is an object "
            "store. Name a folder of a shared file system (--set workdir=…), or stop before training: --until lists"
        )
