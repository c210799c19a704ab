"""The terminal output of commands: base and student compared, the state of a run, the metrics of a model."""

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
from cluster.watch.status import masked, status
from distill.lists.duplicates import COPIES
from distill.training.chosen import base_stays, chosen_in_words
from generation.judging.stage import NOT_JUDGED
from generation.type_figures import PASSAGE_CUT
from launcher.report.verdict import METRICS

if TYPE_CHECKING:
    from cluster.tables.storage import Storage
    from launcher.recipe import Recipe


def print_outcome(
    recipe: Recipe,
    record: Mapping[str, Any] | None,
    training: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> None:
    """Prints base and student side by side, the verdict in words, and the paths of model and report.

    Args:
        recipe: of the run.
        record: of the evaluation; None if there was none.
        training: record of the training.
        console: prints there.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    console.print()
    if training and base_stays(training):
        console.print(_plain(chosen_in_words(training), "bold"))
    elif record:
        _print_comparison(record, console)
    else:
        console.print("The student is trained, but not judged: the recipe names no judged queries.", style="bold")
    console.print()
    workdir = recipe.workdir.rstrip("/")
    if (record and record["recommended"] == "base") or (training and base_stays(training)):
        console.print(_plain(f"use      {recipe.student.model}, the base"))
    console.print(_plain(f"model    {workdir}/model"))
    console.print(_plain(f"report   {workdir}/report.html"))


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
    console.print(_plain(record["verdict"], "bold"))


def print_status(storage: Storage, console: Console | None = None, as_json: bool = False) -> None:
    """Prints one line for each table: shards, rows, drops, rejects, throughput; then the state of unfinished tables."""
    console = console or Console(highlight=False)
    stages = status(storage)
    if as_json:
        console.print(json.dumps(stages + one_process_stages(storage), indent=2), soft_wrap=True, markup=False)
    else:
        console.print(_status_page(storage, stages))


def watch_status(storage: Storage, console: Console | None = None, every_s: float = 2.0) -> None:
    """Shows the status again every `every_s` seconds, until Ctrl-C."""
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
    for name in ("shards", "rows", "dropped", "rejected", "rows/s", "tokens/s", "cores used"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in stages:
        done, planned = stage["shards_done"], stage["shards"]
        table.add_row(
            _plain(stage["table"]),
            Text(f"{done}/{planned}", "green" if done == planned else "yellow"),
            f"{stage['rows']:,}",
            f"{sum(stage['drops'].values()):,}",
            Text(f"{stage['rejects']:,}", "red" if stage["rejects"] else ""),
            rate(stage["all_rows_per_s"]) if stage["all_rows_per_s"] else "",
            rate(stage["all_tokens_per_s"]) if stage["all_tokens_per_s"] else "",
            f"{stage['cores_used']:.1f} of {stage['cores_held']:g}" if stage["cores_used"] is not None else "",
        )
    lines: list[RenderableType] = [table]
    lines += [line for stage in stages if stage["state"] != "done" for line in _unfinished(stage)]
    begun = {stage["stage"]: stage for stage in one_process_stages(storage)}
    for name in ONE_PROCESS_STAGES:
        stage = begun.get(name, {"state": "not begun"})
        needs_no_detail = stage["state"] in ("done", "not begun")
        lines += [_plain(f"{name}: {stage['state']}")] if needs_no_detail else _unfinished(stage)
    for stage in stages:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in stage["drops"].items() if count)
        if reasons:
            lines.append(_plain(f"{stage['table']} dropped: {reasons}"))
        if cut := stage["stats"].get(PASSAGE_CUT, 0):
            lines.append(_plain(f"{stage['table']}: {cut:,} asked with a passage cut to the model's context"))
        if too_long := stage["stats"].get(NOT_JUDGED, 0):
            lines.append(_plain(f"{stage['table']}: {too_long:,} not judged, since no prompt fits the model's context"))
        if copies := stage["stats"].get(COPIES, 0):
            lines.append(_plain(f"{stage['table']}: {copies:,} candidates left out as copies of a source"))
        if found := masked(stage):
            lines.append(_plain(f"{stage['table']} masked: {', '.join(f'{kind} {count:,}' for kind, count in found)}"))
    return Group(*lines)


def _unfinished(stage: Mapping[str, Any]) -> list[Text]:
    """Lines about a table that is not done: what runs, or what stopped it."""
    age = duration(stage["heard_s"]) if stage["heard_s"] is not None else ""  # of the last heartbeat
    text, style = {
        "running": (f"running, last heartbeat {age} ago", "green"),
        "failed": (f"failed {age} ago: {stage['why']}", "red"),
        "interrupted": (f"interrupted {age} ago; listwise run continues it", "yellow"),
        "gone": (f"its driver is gone, last heartbeat {age} ago; listwise run continues it", "red"),
        "silent": (f"its driver runs on another machine and is silent, last heartbeat {age} ago", "red"),
        "stopped": ("not done, and no driver is known; listwise run continues it", "yellow"),
    }[stage["state"]]
    now = stage["now"] if stage["state"] == "running" else []
    details = [_plain(f"  {line}", "yellow" if line.startswith("slow: ") else "") for line in now]
    return [_plain(f"{stage['table']}: {text}", style), *details]


def print_metrics(metrics: Mapping[str, Any], output: Path, console: Console | None = None) -> None:
    """Prints the metrics of one model, and the folder of its files."""
    console = console or Console(highlight=False, soft_wrap=True)
    for key in METRICS:
        console.print(f"{METRICS[key]:<12}{metrics[key]:.4f}", markup=False)
    for key in ("queries", "passages"):
        console.print(f"{key:<12}{metrics[key]:,}", markup=False)
    console.print(_plain(f"written to {output}"))


def _plain(text: str, style: str = "") -> Text:
    """A text from files, safe to print: without markup, terminal control characters and secrets."""
    return Text(disclose(text), style)
