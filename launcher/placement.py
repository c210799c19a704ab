"""What a recipe's stages ask of the cluster and of the workdir, looked at before the first of them starts."""

from __future__ import annotations

from cluster.errors import InputError
from cluster.run import Run
from cluster.settings import PoolSettings
from generation import queries
from launcher.recipe import Recipe

TRAINING = ("training", "evaluation")  # a run that ends with one of these trains


def pools(recipe: Recipe) -> dict[str, PoolSettings]:
    """Every pool of a run, by stage."""
    judging = recipe.evaluation.pool
    return {
        "corpus, candidates and lists": recipe.cluster.io_pool,
        "queries": queries.place(recipe.generation),
        **{f"embeddings ({name})": recipe.retrieval.retrievers[name].pool for name in recipe.dense_retrievers()},
        **{f"scores ({name})": teacher.pool for name, teacher in recipe.teachers.items()},
        "training": recipe.training.pool,
        **({"evaluation": judging} if judging and recipe.evaluation.dataset else {}),
    }


def demanding_pools(recipe: Recipe) -> dict[str, PoolSettings]:
    """Pools whose workers want GPUs or custom resources, by stage."""
    return {stage: pool for stage, pool in pools(recipe).items() if pool.gpus or pool.resources}


def refuse_what_no_node_holds(run: Run, recipe: Recipe) -> None:
    """A stage that nothing can place would otherwise be found after hours of the stages before it.

    Raises:
        InputError: no node can hold one worker of a stage; names what it wants and what each node has.
    """
    demanding = demanding_pools(recipe)
    if demanding and not run.storage.exists("training/record.json"):
        run.check(demanding)


def refuse_training_in_a_bucket(recipe: Recipe, last: str) -> None:
    """Ranks read and write checkpoints as files, and would find that out after all the stages before them.

    Raises:
        InputError: the workdir is on an object store, and the run's `last` stage trains or comes after it.
    """
    if last in TRAINING and "://" in recipe.workdir and not recipe.workdir.startswith("file://"):
        raise InputError(
            f"workdir '{recipe.workdir}': training needs a folder that every node can write to, and this is an object "
            "store. Name a folder of a shared file system (--set workdir=…), or stop before: --until lists"
        )
