"""The content of `report.json`: the numbers and names of a run, from the files of its workdir."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cluster.errors import InputError
from cluster.tables.records import read_recipe, read_record
from cluster.tables.storage import Storage
from cluster.watch.status import status
from distill.teachers.adapting.job import JUDGEMENT
from launcher.plan.reality import PLANNED, compare_with_plan
from launcher.report.queries import prompt_tokens, query_grades, query_samples, query_types, query_writers
from launcher.report.training import read_metrics
from launcher.sample import has_judge

JUDGE_STAGES = ("grades", "approved")  # their tables stay where a judge was taken out of the recipe, and count no more


def gather(storage: Storage) -> dict[str, Any]:
    """The content of `report.json`: the numbers and names of a run."""
    if not storage.exists("recipe.yaml"):
        raise InputError(f"{storage.url} holds no run (no recipe.yaml); expected the workdir of a recipe")
    recipe, stages = read_recipe(storage), status(storage)
    evaluation, training = (_json(storage, f"{name}/record.json") for name in ("evaluation", "training"))
    written = stages if has_judge(recipe) else [stage for stage in stages if stage["stage"] not in JUDGE_STAGES]
    steps = [line for line in read_metrics(storage) if "loss" in line]
    report: dict[str, Any] = {
        "name": recipe["name"],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "stages": stages,
        "query_types": query_types(written),
        "query_grades": query_grades(written),
        "query_writers": query_writers(storage, written, recipe),
        "query_samples": query_samples(storage),
        "prompt_tokens": prompt_tokens(stages),
        "agreement": _json(storage, "agreement/record.json"),
        "ensemble": _json(storage, "ensemble/record.json"),
        "adapted": _adapted(storage, recipe["teachers"]),
        "training": training,
        "plan": compare_with_plan(_json(storage, PLANNED), stages, steps, training.get("world_size", 1), evaluation),
        "versions": _json(storage, "versions.json"),
    }
    if "queries" in evaluation:
        sizes = {"queries": evaluation["queries"], "passages": evaluation["passages"]}
        models = {"base": recipe["student"]["model"], "student": f"{storage.url}/model"}
        report |= {side: {"model": models[side], **evaluation[side], **sizes} for side in models}
        report |= {key: evaluation[key] for key in ("difference", "verdict", "recommended")}
    return report


def _adapted(storage: Storage, teachers: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What became of the teachers that were made in the run, as far as they are judged."""
    records = {
        name: _json(storage, f"teachers/{name}/record.json") | _json(storage, f"teachers/{name}/{JUDGEMENT}")
        for name, teacher in teachers.items()
        if teacher["kind"] == "adapted"
    }
    return {name: record for name, record in records.items() if "kept" in record}


def _json(storage: Storage, path: str) -> dict[str, Any]:
    return read_record(storage, path) or {}
