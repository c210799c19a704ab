"""Hours from a shard of every stage that was really run: a small copy of the recipe, in a workdir of its own.

Evaluation has none, and keeps its estimate.

What is measured is the work of one worker on one shard, without loading; the plan's units are multiplied by it.
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
from generation.query_types import load_types, per_source
from launcher.plan.hours import Hours
from launcher.plan.show import Plan
from launcher.plan.work import Step
from launcher.recipe import Recipe

STEPS = 3  # of training; the first warms up


def calibrate(recipe: Recipe, plan: Plan) -> Plan:
    """Runs one shard of each stage on the recipe's cluster; the same plan, with measured hours where there are some.

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
    beside = Path(recipe.workdir).expanduser().absolute()  # so that every node sees it
    beside.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{beside.name}-calibration-", dir=beside.parent))
    small = excerpt(recipe, str(folder))
    try:
        with suppress(InputError):  # so few queries that the filters leave none: the stages before are measured
            pipeline.execute(small, "training")
        tables = status(Storage(small.workdir))
        per_query, ranks = _training_seconds(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = [
        _trained(step, per_query, ranks) if step.stage == "training" else _worked(step, tables) for step in plan.steps
    ]
    known = [new or old for new, old in zip(found, plan.hours, strict=True)]
    return replace(plan, hours=known)


def excerpt(recipe: Recipe, workdir: str) -> Recipe:
    """The recipe for one shard of each stage, in a workdir of its own."""
    rows = max(teacher.rows_per_shard for teacher in recipe.teachers.values())
    each = per_source(recipe.generation, load_types(recipe.generation))
    most = max(PASSAGES_PER_SHARD, recipe.retrieval.depth)
    corpus = {
        "max_passages": min(recipe.corpus.max_passages or most, most),
        "max_sources": min(recipe.corpus.max_sources, math.ceil(rows / each)),
        "query_log": None,
    }
    return recipe.model_copy(
        update={
            "workdir": workdir,
            "corpus": recipe.corpus.model_copy(update=corpus),
            "training": recipe.training.model_copy(update={"max_steps": STEPS, "evaluate_every": STEPS}),
            "evaluation": recipe.evaluation.model_copy(update={"dataset": None}),
        }
    )


def _training_seconds(folder: Path) -> tuple[float | None, int]:
    """Seconds of one query of a step, and how many ranks it took them."""
    try:
        lines = (folder / "training" / "metrics.jsonl").read_text().splitlines()
        ranks = json.loads((folder / "training" / "record.json").read_text())["world_size"]
    except OSError:
        return None, 1
    rates = [one["queries_per_s"] for line in lines if "queries_per_s" in (one := json.loads(line))]
    return (1 / statistics.median(rates[1:] or rates) if rates else None), ranks


def _trained(step: Step, per_query: float | None, ranks: int) -> Hours | None:
    if per_query is None:
        return None
    taken = step.units * per_query * step.devices * (ranks if step.on_gpu else 1) / 3600
    return Hours(taken, taken)


def _worked(step: Step, tables: list[dict[str, Any]]) -> Hours | None:
    """By tokens where encoders and rerankers counted them; a generator's hold what its cache saved, so by units."""
    made = [one for one in tables if one["table"] == step.table or one["table"].startswith(f"{step.table}/")]
    seconds, units, tokens = (sum(one[key] for one in made) for key in ("seconds", "units_done", "tokens"))
    if not units:
        return None
    by_token = step.stage != "queries" and step.tokens and tokens
    taken = seconds * step.devices * (step.tokens / tokens if by_token else step.units / units) / 3600
    return Hours(taken, taken)
