"""How many sources a plan counts with: what the recipe says, what a run has decided, or what a budget pays for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cluster.tables.storage import Storage
from generation.query_types import load_types, per_source
from generation.sources.budget import Decision, recorded_decision
from generation.sources.ids import read_ids
from generation.sources.settings import BudgetSettings, SourceSettings
from generation.sources.stage import most_sources
from launcher.plan.corpus import CorpusSample, Sources
from launcher.plan.devices import Device
from launcher.plan.hours import estimate_hours
from launcher.plan.plan_step import PlanStep
from launcher.plan.work import estimate_work
from launcher.recipe import Recipe


def with_sources(recipe: Recipe, sample: CorpusSample, gpu: Device, cpu: Device) -> CorpusSample:
    """The sample of a corpus, with the number of sources and why it is that, where a recipe says more than a number.

    A budget in hours is turned into sources by the estimated speed, at best, since plans are upper bounds; once the run
    has measured the engine, by what it has decided.
    """
    settings, generation = recipe.corpus.sources, recipe.asking
    if settings == SourceSettings() and generation.budget is None:
        return sample
    most, why = most_sources(recipe.corpus, generation), "corpus.max_sources"
    if most < recipe.corpus.max_sources and generation.budget:
        each = per_source(generation, load_types(generation))
        why = f"generation.budget.queries is {generation.budget.queries:,}, at {each:g} queries a source"
    counted = min(sample.records, most)
    if counted < most:
        why = "all records"
    if settings.share is not None and (share := max(1, round(settings.share * sample.records))) < counted:
        counted, why = share, f"corpus.sources.share is {settings.share:g}"
    if settings.file and (listed := len(read_ids(settings.file, settings.id_field))) < counted:
        counted, why = listed, f"{settings.file} lists them"
    sample = replace(sample, sources=Sources(counted, why))
    budget = generation.budget
    if budget is None or not budget.in_hours or not counted:
        return sample
    hours = budget.gpu_hours or budget.worker_hours
    unit = "gpu_hours" if budget.gpu_hours else "worker_hours"
    decided = _decided(recipe)
    if decided and (decided.hours, decided.unit) == (hours, unit):
        return replace(sample, sources=Sources(decided.sources, decided.why))
    steps = estimate_work(recipe, sample)
    number = next(number for number, step in enumerate(steps) if step.table == "queries")
    estimate = estimate_hours(recipe, sample, steps, gpu, cpu)[number]
    if estimate is None or not estimate.high:
        return replace(sample, sources=Sources(counted, f"{why}; {unit} {hours:g} may pay for fewer"))
    best, worst = (_paid(budget, steps[number], side, counted) for side in (estimate.low, estimate.high))
    why = f"{unit} {hours:g}: estimated {worst:,} to {best:,} sources; a trial of the engine decides"
    return replace(sample, sources=Sources(best, why))


def with_measured_speed(recipe: Recipe, sample: CorpusSample, step: PlanStep, hours: float) -> CorpusSample:
    """The sample with the sources that a budget in hours pays for at a measured speed.

    Args:
        recipe: of the run.
        sample: with the sources that `step` counts with.
        step: for the table `queries`.
        hours: of its device, measured and scaled to all of its units.
    """
    budget = recipe.asking.budget
    if budget is None or not budget.in_hours or not sample.sources or not hours or _decided(recipe):
        return sample
    each = hours / sample.sources.number
    available = min(sample.records, recipe.corpus.max_sources)
    paid = _paid(budget, step, each * available, available)
    return replace(sample, sources=Sources(paid, f"what the budget pays for at {each * 3600:.3g} s a source, measured"))


def _paid(budget: BudgetSettings, step: PlanStep, hours: float, sources: int) -> int:
    """Sources that a budget pays for, if all `sources` take so many hours of the step's device.

    Hours of a plan are those of one GPU, or of all cores of this machine, of which a worker has a part.
    """
    spent = hours if budget.gpu_hours else hours / step.devices
    return max(1, min(sources, int((budget.gpu_hours or budget.worker_hours or 0) / (spent / sources))))


def _decided(recipe: Recipe) -> Decision | None:
    """What the run in the recipe's workdir has decided, if there is one; a workdir is not created."""
    if "://" not in recipe.workdir and not Path(recipe.workdir).expanduser().is_dir():
        return None
    return recorded_decision(Storage(recipe.workdir))
