"""Plan beside reality: a run makes its plan while it begins, keeps it, and its report sets it beside what was done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.run import Run
from launcher.environment import cores
from launcher.recipe import Recipe

PLANNED = "planned.json"
WAIT_S = 60.0  # for a plan that was begun when the run was


class Planning:
    """Makes the plan beside the first stages, in a process of its own; a context around the stages.

    A run that has a plan already makes none, and a run does not depend on it: where it cannot be made there is none.
    """

    def __init__(self, run: Run, recipe: Recipe) -> None:
        self.run, self.recipe = run, recipe
        self._made: Any = None

    def __enter__(self) -> Planning:
        if not self.run.storage.exists(PLANNED):
            self.run.connect()
            import ray

            task: Any = ray.remote(num_cpus=0, max_retries=0)(_plan)
            self._made = task.remote(self.recipe)
        return self

    def __exit__(self, *_: object) -> None:
        if self._made is not None:
            import ray

            ray.cancel(self._made, force=True)

    def keep(self) -> None:
        """Writes it into the workdir."""
        if self._made is None:
            return
        import ray

        try:
            record = ray.get(self._made, timeout=WAIT_S)
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            return
        self.run.storage.put(PLANNED, json.dumps(record, indent=1).encode())


def _plan(recipe: Recipe) -> dict[str, Any]:
    import torch

    from launcher.plan.show import make_plan

    torch.set_num_threads(cores())  # Ray leaves a task without cores one: no measure of a machine
    return make_plan(recipe).record()


def compare(
    planned: Mapping[str, Any],
    tables: Sequence[Mapping[str, Any]],
    steps: Sequence[Mapping[str, Any]],
    ranks: int,
    evaluation: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """One row for each step of the plan that the run has begun.

    Args:
        planned: content of planned.json.
        tables: of `cluster.watch.status.status`.
        steps: lines of training/metrics.jsonl that tell a step; of a step that was done again the later one counts.
        ranks: of the training.
        evaluation: its record; empty where there is none.

    Returns:
        Rows of {"step", "work", "units", "tokens", "hours"}, each of the last three a pair: planned, done. Hours are of
        one GPU, or of all of this machine's cores; planned ones are (low, high) or None.
    """
    rows, trained = [], {step["step"]: step for step in steps}.values()
    for step in planned.get("steps", []):
        made = [one for one in tables if one["table"] == step["table"] or one["table"].startswith(f"{step['table']}/")]
        units, tokens, seconds = (sum(one[key] for one in made) for key in ("units_done", "tokens", "seconds"))
        if step["stage"] == "training":
            units = sum(one["queries"] for one in trained)
            seconds = sum(one["queries"] / one["queries_per_s"] for one in trained)
            seconds *= ranks if step.get("on_gpu") else 1
            tokens = round(sum(one["tokens_per_s"] * one["queries"] / one["queries_per_s"] for one in trained))
        if step["stage"] == "evaluation" and evaluation:
            made = [one for one in tables if one["table"].startswith("judged/")]  # by a pool, if it had one
            units, tokens = 2 * (evaluation["queries"] + evaluation["passages"]), sum(one["tokens"] for one in made)
            seconds = sum(one["seconds"] for one in made) or evaluation["seconds"]
        seconds *= step.get("devices", 1.0)  # a plan of an older version names none
        if units:
            rows.append({
                "step": step["table"], "work": step["work"], "units": (step["units"], units),
                "tokens": (round(step["tokens"]), tokens), "hours": (step["hours"], seconds / 3600),
            })  # fmt: skip
    return rows
