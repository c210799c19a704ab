"""How many sources a budget in hours pays for: a trial with the run's own engine measures what one source costs.

The trial writes the queries of some hundred sources into a table of its own. The run then does them again with all
others. The number is decided once and recorded beside the trial, so that a resumed run keeps it.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from cluster.errors import InputError
from cluster.schemas import PILOT
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from generation import queries
from generation.language.names import ENGLISH
from generation.mixture import WHOLE
from generation.query_worker import QueryWorker
from generation.settings import GenerationSettings
from generation.sources.settings import BudgetSettings

if TYPE_CHECKING:
    from cluster.run import Run

_MILLISECONDS = "writing_ms"

_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)


@dataclass(frozen=True)
class Decision:
    """How many sources are used, and why.

    Attributes:
        hours: of the budget: of one GPU, or of one worker.
        unit: "gpu_hours" or "worker_hours".
        trial_sources: that the trial wrote queries for.
        hours_per_source: measured by the trial, in the same unit.
        sources: that are used.
        why: in words.
    """

    hours: float
    unit: str
    trial_sources: int
    hours_per_source: float
    sources: int
    why: str


def decide(
    run: Run, generation: GenerationSettings, passages: Table, sources: Table, language: str = ENGLISH
) -> Decision | None:
    """The number of sources that the budget in hours pays for; None without such a budget.

    Args:
        run: the run.
        generation: budget and engine.
        passages: PASSAGES.
        sources: SOURCES, as many as there may be.
        language: of the passages, a code.

    Raises:
        InputError: the trial alone took more than the budget.
    """
    budget = generation.budget
    if budget is None or not budget.in_hours:
        return None
    trial = run.execute(_trial(generation, run.storage, passages, sources, language))
    path = f"{PILOT.path}/budget.{trial.plan.id}.json"
    recorded = _recorded(run.storage, path)
    asked = (budget.gpu_hours or budget.worker_hours, "gpu_hours" if budget.gpu_hours else "worker_hours")
    if recorded is None or (recorded.hours, recorded.unit) != asked:
        recorded = _of_trial(budget, queries.place(generation).gpus, trial, sources.num_rows)
        run.storage.put(path, json.dumps(asdict(recorded), indent=1).encode())
    run.progress.say(f"sources: {recorded.sources:,} are used: {recorded.why}")
    return recorded


def recorded_decision(storage: Storage) -> Decision | None:
    """What a run has decided already, if it has."""
    try:
        plan = Table.open(storage, PILOT.path).plan
    except KeyError:
        return None
    return _recorded(storage, f"{PILOT.path}/budget.{plan.id}.json")


def _recorded(storage: Storage, path: str) -> Decision | None:
    try:
        return Decision(**json.loads(storage.get(path)))
    except (KeyError, ValueError, TypeError):  # none yet, or one that a power cut left half-written
        return None


def _of_trial(budget: BudgetSettings, gpus: float, trial: Table, available: int) -> Decision:
    commits = trial.commits()
    tried = sum(shard.rows for shard in trial.plan.shards)
    seconds = sum(commit.stats.get(_MILLISECONDS, 0) for commit in commits) / 1000
    in_gpus = budget.gpu_hours is not None
    hours = seconds / 3600 * (gpus if in_gpus else 1)
    return affordable(budget, hours, tried, available)


def affordable(budget: BudgetSettings, trial_hours: float, tried: int, available: int) -> Decision:
    """What a budget pays for beside the trial.

    Args:
        budget: in hours.
        trial_hours: that the trial took, in the unit of the budget.
        tried: sources of the trial.
        available: sources that there are.

    Raises:
        InputError: the trial took it all.
    """
    unit = "gpu_hours" if budget.gpu_hours is not None else "worker_hours"
    hours = budget.gpu_hours if budget.gpu_hours is not None else budget.worker_hours
    assert hours is not None, "a budget in hours"
    each = max(trial_hours / tried, 1e-12)
    paid = int((hours - trial_hours) / each)
    if paid < 1:
        raise InputError(
            f"generation.budget.{unit} is {hours:g}, and a trial with {tried} sources took {trial_hours:.3g} of it "
            "already. Raise the budget, or set generation.budget.queries instead."
        )
    why = f"{unit} {hours:g} at {each * 3600:.3g} s a source, measured on {tried}"
    if paid > available:
        why += f", would pay for {paid:,}; there are {available:,}"
    return Decision(hours, unit, tried, each, min(paid, available), why)


def _trial(generation: GenerationSettings, storage: Storage, passages: Table, sources: Table, language: str) -> Stage:
    """One shard of one worker, since shards that overlap would be timed twice."""
    assert generation.budget is not None, "a trial is for a budget"
    tried = min(generation.budget.trial_sources, sources.num_rows)
    in_one = generation.model_copy(update={"rows_per_shard": tried})
    stage = queries.stage(storage, in_one, passages, WHOLE, sources, tried, language)
    return replace(
        stage,
        title="sources: trial of the engine",
        table=PILOT,
        path=PILOT.path,
        worker=TrialWorker,
        arguments=stage.arguments | {"table": PILOT.path},
        pool=stage.pool.model_copy(update={"workers": 1}),
    )


class TrialWorker(QueryWorker):
    """Writes queries as the run does; measures how long the engine takes, without loading and the choice of style."""

    async def process(self, task: Task) -> Output:
        """Rows of SOURCES to rows of QUERIES; the stats say the time."""
        if self._reads_prompts:
            await self._decide()
        begun = time.monotonic()
        output = await super().process(task)
        milliseconds = max(1, round((time.monotonic() - begun) * 1000))
        _log.info("the engine took %.1f s for %d sources", milliseconds / 1000, task.stop - task.start)
        return replace(output, stats=output.stats | {_MILLISECONDS: milliseconds})
