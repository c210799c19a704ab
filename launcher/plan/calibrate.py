"""Measured hours for a plan: a small copy of the recipe really runs one shard of each stage, in a workdir of its own.

The time of one worker on that shard, without loading, is scaled to the plan's units. Evaluation is not run, and keeps
its estimate.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.errors import InputError
from cluster.tables.storage import Storage
from cluster.watch.status import status
from distill.retrieval.embeddings import PASSAGES_PER_SHARD
from generation.mixture import without_budgets
from generation.sources.settings import SourceSettings
from launcher.plan.hours import HoursRange, estimate_hours
from launcher.plan.plan_step import PlanStep
from launcher.plan.show import Plan
from launcher.plan.sources import with_measured_speed
from launcher.plan.work import estimate_work, queries_per_source
from launcher.recipe import Recipe

STEPS = 3  # training steps; the first one is a warm-up


def calibrate(recipe: Recipe, plan: Plan) -> Plan:
    """Runs one shard of each stage on the recipe's cluster; returns the plan with the measured hours that there are.

    Raises:
        InputError: the workdir is on an object store, or a stage refuses its input.
        RunError: a stage failed.
    """
    from launcher import pipeline

    if "://" in recipe.workdir:
        raise InputError(
            f"--calibrate: training from '{recipe.workdir}' needs a folder that every node can write to; name one with "
            "--set workdir=…"
        )
    workdir = Path(recipe.workdir).expanduser().absolute()
    workdir.parent.mkdir(parents=True, exist_ok=True)
    # The folder lies beside the workdir, so that every node sees it.
    folder = Path(tempfile.mkdtemp(prefix=f"{workdir.name}-calibration-", dir=workdir.parent))
    small = small_copy(recipe, str(folder))
    try:
        with suppress(InputError):  # the filters may drop all of so few queries; the stages before count nevertheless
            pipeline.execute(small, "training")
        tables = status(Storage(small.workdir))
        query_seconds, ranks = _training_seconds(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    plan = _with_measured_budget(recipe, plan, tables)
    measured = [
        _training_hours(step, query_seconds, ranks) if step.stage == "training" else _table_hours(step, tables)
        for step in plan.steps
    ]
    hours = [new or estimated for new, estimated in zip(measured, plan.hours, strict=True)]
    return replace(plan, hours=hours)


def _with_measured_budget(recipe: Recipe, plan: Plan, tables: list[dict[str, Any]]) -> Plan:
    """The plan with as many sources as a budget in hours pays for at the measured speed of the engine."""
    step = next(step for step in plan.steps if step.table == "queries")
    hours = _table_hours(step, tables)
    sample = with_measured_speed(recipe, plan.sample, step, hours.low if hours else 0.0)
    if sample == plan.sample:
        return plan
    steps = estimate_work(recipe, sample)
    estimated = estimate_hours(recipe, sample, steps, plan.gpu or plan.cpu, plan.cpu)
    return replace(plan, sample=sample, steps=steps, hours=estimated)


def small_copy(recipe: Recipe, workdir: str) -> Recipe:
    """A copy of the recipe that makes one shard of each table, in another workdir."""
    rows = max(teacher.rows_per_shard for teacher in recipe.teachers.values())
    per_source = sum(queries_per_source(generation) for generation in recipe.sections.values())
    passages = max(PASSAGES_PER_SHARD, recipe.retrieval.depth)
    corpus = {
        "max_passages": min(recipe.corpus.max_passages or passages, passages),
        "max_sources": min(recipe.corpus.max_sources, math.ceil(rows / per_source)),
        "query_log": None,
        "sources": SourceSettings(),
    }
    return recipe.model_copy(
        update={
            "generation": without_budgets(recipe.generation),
            "workdir": workdir,
            "corpus": recipe.corpus.model_copy(update=corpus),
            "training": recipe.training.model_copy(update={"max_steps": STEPS, "evaluate_every": STEPS}),
            "evaluation": recipe.evaluation.model_copy(update={"dataset": None}),
        }
    )


def _training_seconds(folder: Path) -> tuple[float | None, int]:
    """Seconds of a training step for each of its queries (None if there was no step), and the number of ranks."""
    try:
        lines = (folder / "training" / "metrics.jsonl").read_text().splitlines()
        ranks = json.loads((folder / "training" / "record.json").read_text())["world_size"]
    except OSError:
        return None, 1
    rates = [record["queries_per_s"] for line in lines if "queries_per_s" in (record := json.loads(line))]
    return (1 / statistics.median(rates[1:] or rates) if rates else None), ranks


def _training_hours(step: PlanStep, query_seconds: float | None, ranks: int) -> HoursRange | None:
    if query_seconds is None:
        return None
    hours = step.units * query_seconds * step.devices * (ranks if step.on_gpu else 1) / 3600
    return HoursRange(hours, hours)


def _table_hours(step: PlanStep, tables: list[dict[str, Any]]) -> HoursRange | None:
    """Hours of a step, scaled from its tables in the small run; None if they are empty.

    Encoders and rerankers count the tokens that they compute, so their time is scaled by tokens. A generator also
    counts tokens that its cache saves, so its time is scaled by units.
    """
    own = [table for table in tables if table["table"] == step.table or table["table"].startswith(f"{step.table}/")]
    seconds, units, tokens = (sum(table[key] for table in own) for key in ("seconds", "units_done", "tokens"))
    if not units:
        return None
    by_token = step.stage != "queries" and step.tokens and tokens
    hours = seconds * step.devices * (step.tokens / tokens if by_token else step.units / units) / 3600
    return HoursRange(hours, hours)
