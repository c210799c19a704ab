"""The plan on a terminal, and as one record for machines and for the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from cluster.disclosure import disclose
from cluster.errors import InputError
from cluster.tables.storage import Storage
from cluster.watch.status import status
from launcher.placement import demanding_pools
from launcher.plan.corpus import Sample, look_at
from launcher.plan.devices import GPUS, Device, this_cpu, visible_gpu
from launcher.plan.hours import Hours, hours
from launcher.plan.memory import Need, needs
from launcher.plan.work import Step, estimate
from launcher.recipe import Recipe

ASSUMED_GPU = "h100"


@dataclass(frozen=True)
class Plan:
    """A recipe's dry run: what was looked at, and what follows from it."""

    sample: Sample
    steps: list[Step]
    needs: list[Need]
    hours: list[Hours | None]
    gpu: Device | None
    cpu: Device

    def record(self) -> dict[str, Any]:
        """For machines: all figures, without the sampled texts."""
        rows = [
            {**asdict(step), "hours": [each.low, each.high] if each else None}
            for step, each in zip(self.steps, self.hours, strict=True)
        ]
        memory = [{**asdict(need), "bytes": need.bytes, "fits": need.fits} for need in self.needs]
        return {
            "records": self.sample.records, "tokens": self.sample.tokens, "characters": self.sample.characters,
            "gpu": self.gpu.name if self.gpu else None, "cpu": self.cpu.name, "steps": rows, "memory": memory,
        }  # fmt: skip


def make_plan(recipe: Recipe, gpu: str | None = None) -> Plan:
    """Plans a recipe.

    Args:
        recipe: of the run.
        gpu: kind of GPU, a name in `GPUS`; None: the one of this machine, else an H100.

    Raises:
        InputError: a model folder, the corpus or the judged queries are not there; no such GPU is known.
    """
    if gpu and gpu.lower() not in GPUS:
        raise InputError(f"--gpu {gpu}: no such GPU is known; there are {', '.join(GPUS)}")
    recipe.check_inputs()
    wants_gpu = any(pool.gpus for pool in demanding_pools(recipe).values())
    device = (GPUS[gpu.lower()] if gpu else visible_gpu() or GPUS[ASSUMED_GPU]) if wants_gpu else None
    sample, cpu = look_at(recipe), this_cpu()
    steps = estimate(recipe, sample)
    where = device or cpu
    return Plan(sample, steps, needs(recipe, sample, where), hours(recipe, sample, steps, where, cpu), device, cpu)


def print_plan(
    recipe: Recipe, plan: Plan, gpus: int = 1, price: float | None = None, console: Console | None = None
) -> None:
    """Prints a plan.

    Raises:
        InputError: a worker does not fit its device; names the smallest change that does.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    sample = plan.sample
    how = "the student's tokenizer" if sample.with_tokenizer else "four characters a token"
    console.print(
        f"{sample.records:,} records, {sample.characters:,.0f} characters and {sample.tokens:,.0f} tokens each "
        f"(on a sample, by {how})\n"
    )
    _print_work(plan, console)
    _print_memory(plan, console)
    _print_cost(plan, gpus, price, console)
    done = finished(recipe)
    if done:
        console.print(_plain(f"Done already in {recipe.workdir}: {', '.join(done)}"))
    refuse_what_does_not_fit(plan)


def refuse_what_does_not_fit(plan: Plan) -> None:
    """Looks at every worker's memory.

    Raises:
        InputError: one needs more than its device has.
    """
    problems = [
        f"  {need.stage}: a worker with {need.model} needs {_gb(need.bytes)}, and has {_gb(need.limit)}. "
        + (f"The smallest change that fits: --set {need.change}" if need.change else "No change of the recipe helps: "
           "take a larger GPU, or a smaller model.")
        for need in plan.needs
        if not need.fits
    ]  # fmt: skip
    if problems:
        raise InputError("the plan does not fit:\n" + "\n".join(problems))


def _print_work(plan: Plan, console: Console) -> None:
    grid = _grid("stage", "work", right=("units", "shards", "tokens", "disk"))
    for step in plan.steps:
        shards = f"{step.shards:,}" if step.shards else ""
        cells = (step.stage, step.work, f"{step.units:,}", shards, _short(step.tokens), f"{step.megabytes:,.1f} MB")
        grid.add_row(*map(_plain, cells))
    console.print(grid)
    for step in plan.steps:
        for note in step.notes:
            console.print(_plain(f"{step.table}: {note}"))
    total = sum(step.megabytes for step in plan.steps)
    console.print(f"At most; filters remove queries on the way. Disk in all: {total:,.0f} MB")


def _print_memory(plan: Plan, console: Console) -> None:
    grid = _grid("memory", "model", right=("needs", "has"), last="of which")
    for need in plan.needs:
        name, model = _plain(need.stage), _plain(need.model)
        if not need.parts:
            grid.add_row(name, model, "?", "", need.unknown)
            continue
        parts = ", ".join(f"{part} {_gb(size)}" for part, size in need.parts.items() if size >= 5e7)
        has = Text(_gb(need.limit), "" if need.fits else "red")
        grid.add_row(name, model, _gb(need.bytes), has, parts + (f" ({need.unknown})" if need.unknown else ""))
    console.print()
    console.print(grid)


def _print_cost(plan: Plan, gpus: int, price: float | None, console: Console) -> None:
    grid = _grid("time", right=("at best", "at worst"))
    for step, each in zip(plan.steps, plan.hours, strict=True):
        name = _plain(f"{step.stage} ({step.work})")
        if each is None:
            grid.add_row(name, "?", "?")
        elif each.high:
            grid.add_row(name, _time(each.low), _time(each.high))
    console.print()
    console.print(grid)
    on_gpu, on_cpu = total_hours(plan)
    timed = any(each and each.high and not step.model for step, each in zip(plan.steps, plan.hours, strict=True))
    apart = "loading apart" if timed else "loading and the stages without models apart"
    if plan.gpu:
        console.print(f"In all {_time(on_gpu.low)} to {_time(on_gpu.high)} of one {plan.gpu.name}; {apart}.")
        if gpus > 1:
            console.print(f"On {gpus} of them: {_time(on_gpu.low / gpus)} to {_time(on_gpu.high / gpus)}.")
        if price is not None:
            console.print(f"At {price:g} an hour: {on_gpu.low * price:,.2f} to {on_gpu.high * price:,.2f}.")
        if on_cpu.high:
            console.print(f"Beside that, {_time(on_cpu.low)} to {_time(on_cpu.high)} on {plan.cpu.name}.")
    else:
        console.print(f"In all {_time(on_cpu.low)} to {_time(on_cpu.high)} on {plan.cpu.name}; {apart}.")
    if unknown := [step.table for step, each in zip(plan.steps, plan.hours, strict=True) if each is None]:
        console.print(_plain(f"Not counted, since nothing here tells how large the model is: {', '.join(unknown)}."))


def total_hours(plan: Plan) -> tuple[Hours, Hours]:
    """Of all steps that are known: those on GPUs, and those on CPUs."""
    sums = {True: Hours(0.0, 0.0), False: Hours(0.0, 0.0)}
    for step, each in zip(plan.steps, plan.hours, strict=True):
        sums[step.on_gpu] += each or Hours(0.0, 0.0)
    return sums[True], sums[False]


def _plain(text: str) -> Text:
    """A recipe's own words: square brackets are no markup, and control characters are written out."""
    return Text(disclose(text))


def _grid(*left: str, right: Iterable[str] = (), last: str = "") -> Grid:
    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in left:
        grid.add_column(name, overflow="fold")
    for name in right:
        grid.add_column(name, justify="right", no_wrap=True)
    if last:
        grid.add_column(last)
    return grid


def finished(recipe: Recipe) -> list[str]:
    """Tables of the workdir that are complete; looking does not create it."""
    if "://" not in recipe.workdir and not Path(recipe.workdir).expanduser().is_dir():
        return []
    return [one["table"] for one in status(Storage(recipe.workdir)) if one["shards"] == one["shards_done"]]


def _short(number: float) -> str:
    """1,234,567 as 1.2 M; an empty text for nothing."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number:,.0f}" if number else ""


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"


def _time(number: float) -> str:
    """Hours in the unit that is read most easily."""
    if number >= 1:
        return f"{number:,.1f} h"
    return f"{number * 60:,.1f} min" if number * 60 >= 1 else f"{number * 3600:,.0f} s"
