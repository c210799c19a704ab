"""Recipes whose plans are tested, and their steps by table."""

from __future__ import annotations

from pathlib import Path

from launcher.plan.corpus import sample_corpus
from launcher.plan.devices import Device
from launcher.plan.plan_step import PlanStep
from launcher.plan.sources import with_sources
from launcher.plan.work import estimate_work
from launcher.recipe import Recipe

CPU = Device("a CPU", 1e11, 1e11, 1e10, is_gpu=False)


def save_llama(folder: Path, **config: int) -> str:
    """Saves the configuration of a model without its weights."""
    from transformers import LlamaConfig

    LlamaConfig(architectures=["LlamaForCausalLM"], **config).save_pretrained(folder)
    return str(folder)


def with_gpus(recipe: Recipe, llama: str, **generation: object) -> Recipe:
    pool = {"gpus": 1.0}
    section = recipe.generation.model_copy(
        update={"engine": "vllm", "model": llama, "pool": recipe.generation.pool.model_copy(update=pool), **generation}
    )
    return recipe.model_copy(update={"generation": section})


def steps_of(recipe: Recipe) -> dict[str, PlanStep]:
    return {step.table: step for step in estimate_work(recipe, sample_corpus(recipe))}


def changed(recipe: Recipe, corpus: dict | None = None, **generation: object) -> Recipe:
    """The recipe with other settings, validated."""
    data = recipe.model_dump()
    data["corpus"] |= corpus or {}
    data["generation"] |= generation
    return Recipe.model_validate(data)


def planned(recipe: Recipe) -> dict[str, PlanStep]:
    """The steps of a plan by their tables, with the number of sources that the recipe decides."""
    sample = with_sources(recipe, sample_corpus(recipe), CPU, CPU)
    return {step.table: step for step in estimate_work(recipe, sample)}
