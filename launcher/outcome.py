"""What a command prints when it is done: base against student, the state of a run, the metrics of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.status import status
from launcher.report import METRICS

if TYPE_CHECKING:
    from cluster.storage import Storage
    from launcher.recipe import Recipe


def print_outcome(recipe: Recipe, record: Mapping[str, Any] | None, console: Console | None = None) -> None:
    """Base against student, the verdict in plain words, and where model and report lie."""
    console = console or Console(highlight=False, soft_wrap=True)
    console.print()
    if record:
        _print_comparison(record, console)
    else:
        console.print("The student is trained, not judged: the recipe names no judged queries.", style="bold")
    console.print()
    workdir = recipe.workdir.rstrip("/")
    if record and record["recommended"] == "base":
        console.print(f"use      {recipe.student.model}, the base", markup=False)
    console.print(f"model    {workdir}/model", markup=False)
    console.print(f"report   {workdir}/report.html", markup=False)


def _print_comparison(record: Mapping[str, Any], console: Console) -> None:
    base, student = record["base"], record["student"]
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("")
    for name in ("base", "student", "difference"):
        table.add_column(name, justify="right")
    for key, name in METRICS.items():
        if key in base and key in student:
            change = student[key] - base[key]
            style = "green" if change > 0 else "red" if change < 0 else ""
            table.add_row(name, f"{base[key]:.4f}", f"{student[key]:.4f}", Text(f"{change:+.4f}", style))
    console.print(table)
    console.print()
    console.print(record["verdict"], style="bold", markup=False)


def print_status(storage: Storage, console: Console | None = None) -> None:
    """One line a table: shards, rows, drops, rejects and throughput."""
    console = console or Console(highlight=False)
    stages = status(storage)
    if not stages:
        console.print("Nothing is planned yet.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("table")
    for name in ("shards", "rows", "dropped", "rejected", "rows/s"):
        table.add_column(name, justify="right")
    for one in stages:
        done, planned = one["shards_done"], one["shards"]
        table.add_row(
            one["table"],
            Text(f"{done}/{planned}", "green" if done == planned else "yellow"),
            f"{one['rows']:,}",
            f"{sum(one['drops'].values()):,}",
            Text(f"{one['rejects']:,}", "red" if one["rejects"] else ""),
            f"{one['rows_per_s']:,.0f}" if one["rows_per_s"] else "",
        )
    console.print(table)
    for name in ("training", "evaluation"):
        state = (
            "done" if storage.exists(f"{name}/record.json") else "begun" if storage.exists(f"{name}/plan.json") else ""
        )
        console.print(f"{name}: {state or 'not begun'}")
    for one in stages:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in one["drops"].items() if count)
        if reasons:
            console.print(f"{one['table']} dropped: {reasons}", markup=False)


def print_metrics(metrics: Mapping[str, Any], output: Path, console: Console | None = None) -> None:
    """The metrics of one model, and where the files lie."""
    console = console or Console(highlight=False, soft_wrap=True)
    for key in METRICS:
        console.print(f"{METRICS[key]:<12}{metrics[key]:.4f}", markup=False)
    for key in ("queries", "passages"):
        console.print(f"{key:<12}{metrics[key]:,}", markup=False)
    console.print(f"written to {output}", markup=False)
