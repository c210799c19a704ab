"""The plan of a recipe: how it is made, and how it is shown on a terminal and as a record for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from launcher import input_checks
from launcher.placement import demanding_pools
from launcher.plan.corpus import CorpusSample, sample_corpus
from launcher.plan.devices import GPUS, Device, this_cpu, visible_gpu
from launcher.plan.hours import HoursRange, estimate_hours
from launcher.plan.memory import MemoryNeed, memory_needs
from launcher.plan.plan_step import PlanStep
from launcher.plan.sources import with_sources
from launcher.plan.work import estimate_work
from launcher.recipe import Recipe

ASSUMED_GPU = "h100"


@dataclass(frozen=True)
class Plan:
    """The plan of a run: the sizes of its inputs, and the estimates that follow from them."""

    sample: CorpusSample
    steps: list[PlanStep]
    needs: list[MemoryNeed]
    hours: list[HoursRange | None]
    gpu: Device | None
    cpu: Device

    def record(self) -> dict[str, Any]:
        """All figures as JSON data, without the sampled texts."""
        rows = [
            {**asdict(step), "hours": [hours.low, hours.high] if hours else None}
            for step, hours in zip(self.steps, self.hours, strict=True)
        ]
        memory = [{**asdict(need), "bytes": need.bytes, "fits": need.fits} for need in self.needs]
        return {
            "records": self.sample.records, "tokens": self.sample.tokens, "characters": self.sample.characters,
            "gpu": self.gpu.name if self.gpu else None, "cpu": self.cpu.name, "steps": rows, "memory": memory,
        }  # fmt: skip


def make_plan(recipe: Recipe, gpu: str | None = None) -> Plan:
    """Makes the plan of a recipe.

    Args:
        recipe: of the run.
        gpu: kind of GPU, a name in `GPUS`; None: the GPU of this machine, or an H100 if it has none.

    Raises:
        InputError: a model folder, the corpus or the judged queries do not exist; or the kind of GPU is unknown.
    """
    if gpu and gpu.lower() not in GPUS:
        raise InputError(f"--gpu {gpu}: no such GPU is known; there are {', '.join(GPUS)}")
    input_checks.check(recipe)
    needs_gpu = any(pool.gpus for pool in demanding_pools(recipe).values())
    gpu_device = (GPUS[gpu.lower()] if gpu else visible_gpu() or GPUS[ASSUMED_GPU]) if needs_gpu else None
    cpu = this_cpu()
    sample = with_sources(recipe, sample_corpus(recipe), gpu_device or cpu, cpu)
    steps = estimate_work(recipe, sample)
    device = gpu_device or cpu
    needs = memory_needs(recipe, sample, device)
    hours = estimate_hours(recipe, sample, steps, device, cpu)
    return Plan(sample, steps, needs, hours, gpu_device, cpu)


def print_plan(
    recipe: Recipe,
    plan: Plan,
    gpus: int = 1,
    price: float | None = None,
    encoders: Sequence[str] = (),
    console: Console | None = None,
) -> None:
    """Prints a plan.

    Args:
        recipe, plan: the recipe and its plan.
        gpus: that work at once.
        price: of one for an hour.
        encoders: what a check of the recipe's encoders found, a line for each.
        console: the terminal.

    Raises:
        InputError: a worker does not fit its device; the message names the smallest change that makes it fit.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    sample = plan.sample
    how = "the student's tokenizer" if sample.with_tokenizer else "four characters a token"
    if sample.documents is not None:
        console.print(f"{sample.documents:,} documents, cut into about as many chunks as there are records here:")
    console.print(
        f"{sample.records:,} records, {sample.characters:,.0f} characters and {sample.tokens:,.0f} tokens each "
        f"(on a sample, by {how})\n"
    )
    for note in sample.notes:
        console.print(_plain(f"{note}\n"))
    if sample.unread:
        console.print(
            f"{sample.unread:.0%} of them are longer than student.max_passage_tokens = "
            f"{recipe.student.max_passage_tokens}: what lies beyond stays unread. Set corpus.chunk_tokens, and they "
            "are cut.\n"
        )
    _print_work(plan, console)
    _print_memory(plan, console)
    _print_cost(plan, gpus, price, console)
    for line in encoders:
        console.print(_plain(line))
    if tables := finished_tables(recipe):
        console.print(_plain(f"Already done in {recipe.workdir}: {', '.join(tables)}"))
    refuse_what_does_not_fit(plan)


def refuse_what_does_not_fit(plan: Plan) -> None:
    """Checks the memory of every worker.

    Raises:
        InputError: a worker needs more memory than its device has.
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
    grid = _grid("stage", "work", right=("units", "shards", "workers", "tokens", "disk"))
    for step in plan.steps:
        shards = f"{step.shards:,}" if step.shards else ""
        cells = (
            step.stage,
            step.work,
            f"{step.units:,}",
            shards,
            _workers(step),
            _short(step.tokens),
            f"{step.megabytes:,.1f} MB",
        )
        grid.add_row(*map(_plain, cells))
    console.print(grid)
    for step in plan.steps:
        for note in step.notes:
            console.print(_plain(f"{step.table}: {note}"))
    total = sum(step.megabytes for step in plan.steps)
    console.print(f"These are upper bounds, because filters remove queries. Disk in all: {total:,.0f} MB")


def _workers(step: PlanStep) -> str:
    """Workers at a time, and the cores of this machine or the GPUs that each holds."""
    if step.on_gpu:
        held = f"{step.devices:g} GPU{'s' if step.devices > 1 else ''}"
    else:
        held = f"{step.held:g} core{'' if step.held == 1 else 's'}"
    return f"{step.workers or 'each'} × {held}"


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
    for step, hours in zip(plan.steps, plan.hours, strict=True):
        name = _plain(f"{step.stage} ({step.work})")
        if hours is None:
            grid.add_row(name, "?", "?")
        elif hours.high:
            grid.add_row(name, _time(hours.low), _time(hours.high))
    console.print()
    console.print(grid)
    on_gpu, on_cpu = total_hours(plan)
    measured = any(hours and hours.high and not step.model for step, hours in zip(plan.steps, plan.hours, strict=True))
    left_out = "without loading" if measured else "without loading and the stages without models"
    if plan.gpu:
        console.print(f"In all {_time(on_gpu.low)} to {_time(on_gpu.high)} of one {plan.gpu.name}, {left_out}.")
        if gpus > 1:
            console.print(f"On {gpus} of them: {_time(on_gpu.low / gpus)} to {_time(on_gpu.high / gpus)}.")
        if price is not None:
            console.print(f"At {price:g} an hour: {on_gpu.low * price:,.2f} to {on_gpu.high * price:,.2f}.")
        if on_cpu.high:
            console.print(f"Beside that, {_time(on_cpu.low)} to {_time(on_cpu.high)} on {plan.cpu.name}.")
    else:
        console.print(f"In all {_time(on_cpu.low)} to {_time(on_cpu.high)} on {plan.cpu.name}, {left_out}.")
    if unknown := [step.table for step, hours in zip(plan.steps, plan.hours, strict=True) if hours is None]:
        console.print(_plain(f"Not counted, because the size of the model is not known: {', '.join(unknown)}."))


def total_hours(plan: Plan) -> tuple[HoursRange, HoursRange]:
    """Sums of the hours of all steps with known hours: of the steps on GPUs, and of those on CPUs."""
    sums = {True: HoursRange(0.0, 0.0), False: HoursRange(0.0, 0.0)}
    for step, hours in zip(plan.steps, plan.hours, strict=True):
        sums[step.on_gpu] += hours or HoursRange(0.0, 0.0)
    return sums[True], sums[False]


def _plain(text: str) -> Text:
    """A text of the recipe, safe to print: square brackets are no markup, and control characters are escaped."""
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


def finished_tables(recipe: Recipe) -> list[str]:
    """Names of the complete tables in the workdir; a workdir that does not exist is not created."""
    if "://" not in recipe.workdir and not Path(recipe.workdir).expanduser().is_dir():
        return []
    tables = status(Storage(recipe.workdir))
    return [table["table"] for table in tables if table["shards"] == table["shards_done"]]


def _short(number: float) -> str:
    """A number with one decimal and a unit prefix: 1,234,567 as 1.2 M; an empty text for zero."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number:,.0f}" if number else ""


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"


def _time(number: float) -> str:
    """A number of hours in hours, minutes or seconds."""
    if number >= 1:
        return f"{number:,.1f} h"
    return f"{number * 60:,.1f} min" if number * 60 >= 1 else f"{number * 3600:,.0f} s"
