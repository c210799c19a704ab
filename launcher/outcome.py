"""What a command prints when it is done: base against student, the state of a run, the metrics of a model."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.disclosure import disclose
from cluster.schemas import ONE_PROCESS_STAGES
from cluster.watch.one_process_stage import one_process_stages
from cluster.watch.phrases import duration, rate
from cluster.watch.status import status
from launcher.report import METRICS

if TYPE_CHECKING:
    from cluster.tables.storage import Storage
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
        console.print(_shown(f"use      {recipe.student.model}, the base"))
    console.print(_shown(f"model    {workdir}/model"))
    console.print(_shown(f"report   {workdir}/report.html"))


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
    console.print(_shown(record["verdict"], "bold"))


def print_status(storage: Storage, console: Console | None = None, as_json: bool = False) -> None:
    """One line a table: shards, rows, drops, rejects and throughput; under them what is in work, or why it is not."""
    console = console or Console(highlight=False)
    stages = status(storage)
    if as_json:
        console.print(json.dumps(stages + one_process_stages(storage), indent=2), soft_wrap=True, markup=False)
    else:
        console.print(_status_page(storage, stages))


def watch_status(storage: Storage, console: Console | None = None, every_s: float = 2.0) -> None:
    """Shows the status again and again, until Ctrl-C."""
    console = console or Console(highlight=False)
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live, suppress(KeyboardInterrupt):
        while True:
            live.update(_status_page(storage, status(storage)), refresh=True)
            time.sleep(every_s)


def _status_page(storage: Storage, stages: list[dict[str, Any]]) -> RenderableType:
    if not stages:
        return Text("Nothing is planned yet.")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("table")
    for name in ("shards", "rows", "dropped", "rejected", "rows/s", "tokens/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in stages:
        done, planned = one["shards_done"], one["shards"]
        table.add_row(
            _shown(one["table"]),
            Text(f"{done}/{planned}", "green" if done == planned else "yellow"),
            f"{one['rows']:,}",
            f"{sum(one['drops'].values()):,}",
            Text(f"{one['rejects']:,}", "red" if one["rejects"] else ""),
            rate(one["all_rows_per_s"]) if one["all_rows_per_s"] else "",
            rate(one["all_tokens_per_s"]) if one["all_tokens_per_s"] else "",
        )
    lines: list[RenderableType] = [table]
    lines += [line for one in stages if one["state"] != "done" for line in _in_work(one)]
    begun = {one["stage"]: one for one in one_process_stages(storage)}
    for name in ONE_PROCESS_STAGES:
        piece = begun.get(name, {"state": "not begun"})
        calm = piece["state"] in ("done", "not begun")
        lines += [_shown(f"{name}: {piece['state']}")] if calm else _in_work(piece)
    for one in stages:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in one["drops"].items() if count)
        if reasons:
            lines.append(_shown(f"{one['table']} dropped: {reasons}"))
    return Group(*lines)


def _in_work(one: Mapping[str, Any]) -> list[Text]:
    """What goes on in a table that is not done, or what stopped it."""
    heard = duration(one["heard_s"]) if one["heard_s"] is not None else ""
    text, style = {
        "running": (f"running, heard of {heard} ago", "green"),
        "failed": (f"failed {heard} ago: {one['why']}", "red"),
        "interrupted": (f"interrupted {heard} ago; listwise run continues it", "yellow"),
        "gone": (f"its driver is gone, last heard of {heard} ago; listwise run continues it", "red"),
        "silent": (f"its driver was last heard of {heard} ago, on another machine", "red"),
        "stopped": ("not done, and no driver is known; listwise run continues it", "yellow"),
    }[one["state"]]
    now = one["now"] if one["state"] == "running" else []
    slow = [_shown(f"  {line}", "yellow" if line.startswith("slow: ") else "") for line in now]
    return [_shown(f"{one['table']}: {text}", style), *slow]


def print_metrics(metrics: Mapping[str, Any], output: Path, console: Console | None = None) -> None:
    """The metrics of one model, and where the files lie."""
    console = console or Console(highlight=False, soft_wrap=True)
    for key in METRICS:
        console.print(f"{METRICS[key]:<12}{metrics[key]:.4f}", markup=False)
    for key in ("queries", "passages"):
        console.print(f"{key:<12}{metrics[key]:,}", markup=False)
    console.print(_shown(f"written to {output}"))


def _shown(words: str, style: str = "") -> Text:
    """Words from files as words: no markup, no terminal control, no secret."""
    return Text(disclose(words), style)
