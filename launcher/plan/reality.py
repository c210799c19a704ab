"""The plan of a run beside its real figures: a run makes a plan when it begins, and its report compares the two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.machines import sent_variables
from cluster.run import Run
from cluster.tables.records import read_record
from launcher.environment import cores
from launcher.recipe import Recipe

PLANNED = "planned.json"
WAIT_S = 60.0  # longest wait for the plan after training; it was started with the run


class BackgroundPlan:
    """A context around the stages of a run that makes the run's plan meanwhile, in a Ray task.

    It does nothing if the workdir holds a plan of the same settings already. If the task fails, the run continues
    without a plan.
    """

    def __init__(self, run: Run, recipe: Recipe) -> None:
        self.run, self.recipe = run, recipe
        self._result: Any = None
        self._digest = hashlib.sha256(recipe.to_yaml().encode()).hexdigest()

    def __enter__(self) -> BackgroundPlan:
        if (read_record(self.run.storage, PLANNED) or {}).get("recipe") != self._digest:
            self.run.connect()
            import ray

            task: Any = ray.remote(num_cpus=0, max_retries=0)(_plan)
            self._result = task.remote(self.recipe, sent_variables.received())
        return self

    def __exit__(self, *_: object) -> None:
        if self._result is not None:
            import ray

            ray.cancel(self._result, force=True)

    def save(self) -> None:
        """Writes the plan into the workdir."""
        if self._result is None:
            return
        import ray

        try:
            record = ray.get(self._result, timeout=WAIT_S)
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            return
        self.run.storage.put(PLANNED, json.dumps(record | {"recipe": self._digest}, indent=1).encode())


def _plan(recipe: Recipe, variables: dict[str, str]) -> dict[str, Any]:
    sent_variables.take(variables)
    import torch

    from launcher.plan.show import make_plan

    torch.set_num_threads(cores())  # Ray gives one thread to a task without cores, but the plan measures all cores
    return make_plan(recipe).record()


def compare_with_plan(
    planned: Mapping[str, Any],
    tables: Sequence[Mapping[str, Any]],
    steps: Sequence[Mapping[str, Any]],
    ranks: int,
    evaluation: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Compares plan and run: one row for each step of the plan that the run has begun.

    Args:
        planned: content of planned.json.
        tables: result of `cluster.watch.status.status`.
        steps: lines of training/metrics.jsonl about training steps; if a step was repeated, its last line counts.
        ranks: number of training ranks.
        evaluation: the evaluation's record; empty if there is none.

    Returns:
        Rows of {"step", "work", "units", "tokens", "hours"}. Each of the last three is a pair: planned, done. Hours are
        those of one GPU, or of all cores of this machine; planned hours are (low, high) or None.
    """
    rows, training_steps = [], {step["step"]: step for step in steps}.values()
    for step in planned.get("steps", []):
        name = step["table"]
        own = [table for table in tables if table["table"] == name or table["table"].startswith(f"{name}/")]
        units, tokens, seconds = (sum(table[key] for table in own) for key in ("units_done", "tokens", "seconds"))
        if step["stage"] == "training":
            units = sum(line["queries"] for line in training_steps)
            lasted = [_seconds(line) for line in training_steps]
            seconds = sum(lasted) * (ranks if step.get("on_gpu") else 1)
            tokens = round(sum(line["tokens_per_s"] * s for line, s in zip(training_steps, lasted, strict=True)))
        if step["stage"] == "evaluation" and evaluation:
            own = [table for table in tables if table["table"].startswith("judged/")]  # written if it had a worker pool
            units, tokens = 2 * (evaluation["queries"] + evaluation["passages"]), sum(table["tokens"] for table in own)
            seconds = sum(table["seconds"] for table in own) or evaluation["seconds"]
        seconds *= step.get("devices", 1.0)  # a plan of an older version names none
        if units:
            rows.append({
                "step": name, "work": step["work"], "units": (step["units"], units),
                "tokens": (round(step["tokens"]), tokens), "hours": (step["hours"], seconds / 3600),
            })  # fmt: skip
    return rows


def _seconds(step: Mapping[str, Any]) -> float:
    """How long a training step took; earlier versions wrote its rate alone, rounded, so that it may be 0."""
    if "seconds" in step:
        return float(step["seconds"])
    return step["queries"] / step["queries_per_s"] if step["queries_per_s"] else 0.0
