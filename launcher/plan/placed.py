"""Which workers do a step of a plan: its pool, the devices that each of them holds, and how many work at a time."""

from __future__ import annotations

from dataclasses import replace

from cluster.schemas import GRADES, PILOT, PROBES
from cluster.settings import PoolSettings
from distill.teachers.adapting.job import FOLDER as ADAPTED
from distill.teachers.load import place as place_teacher
from distill.teachers.load import takes_vllm
from generation.judging import stage as judging
from generation.queries import place
from generation.settings import GenerationSettings
from launcher.environment import cores
from launcher.plan.plan_step import PlanStep
from launcher.recipe import Recipe


def pool_of(recipe: Recipe, step: PlanStep) -> PoolSettings:
    """The worker pool that runs a step."""
    name = step.table.partition("/")[2]
    if generation := generation_of(recipe, step):
        return place(generation)
    if recipe.judge and step.table == GRADES.path:
        return judging.place(recipe.judge)
    if step.stage == "embeddings":
        return recipe.retrieval.retrievers[name].pool
    if step.table == ADAPTED.format(name=name):
        return recipe.teachers[name].adapting.pool
    if step.stage == "scores" or step.table == PROBES.path.format(name=name):
        teacher = recipe.teachers.get(name) or recipe.teachers[name.removesuffix("-vectors")]
        # A bi-encoder without a model of its own only multiplies vectors that a retriever has made.
        multiplies = teacher.kind == "bi_encoder" and not step.model
        return recipe.cluster.io_pool if multiplies else place_teacher(teacher)
    if step.stage == "training":
        return recipe.training.pool
    if step.stage == "evaluation":
        return recipe.evaluation.pool or PoolSettings(workers=1, cpus=cores())  # the driver itself
    return recipe.cluster.io_pool


def generation_of(recipe: Recipe, step: PlanStep) -> GenerationSettings | None:
    """The section that writes the queries of a step, or of its trial; None for other steps."""
    if step.table == PILOT.path:
        return recipe.asking
    return next((own for section, own in recipe.sections.items() if section.path == step.table), None)


def with_devices(step: PlanStep, recipe: Recipe) -> PlanStep:
    """The step with the devices that one of its workers holds, and how many of them work at a time."""
    pool = pool_of(recipe, step)
    if pool.gpus:
        return replace(step, on_gpu=True, devices=pool.gpus, workers=pool.workers or 0, held=pool.cores)
    generation = generation_of(recipe, step)
    teacher = recipe.teachers.get(step.table.partition("/")[2]) if step.stage == "scores" else None
    on_vllm = generation.engine == "vllm" if generation else teacher is not None and takes_vllm(teacher)
    if on_vllm or step.table == GRADES.path or step.stage == "training":
        pool = pool.sharing(cores())
    share = (pool.cores or 1) / cores()
    workers = pool.workers or (max(1, int(cores() / pool.cores)) if pool.cores else cores())
    return replace(
        step, devices=1.0 if step.stage == "training" else min(1.0, share),
        workers=min(workers, step.shards) if step.shards else workers, held=pool.cores,
    )  # fmt: skip
