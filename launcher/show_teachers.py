"""Prints how the teachers of a recipe were judged."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.disclosure import disclose
from distill.evaluation.statistics import Difference
from launcher.judge_teachers import Judgement


def print_judgement(judgement: Judgement, console: Console | None = None) -> None:
    """Prints one row for each ranking, and what the figures mean."""
    console = console or Console(highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", overflow="fold")
    for name in ("nDCG@10", "to base", "95 % interval", "per query"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in judgement.rows:
        difference, interval, words = Text(), "", Text()
        if row.difference:
            low, high, style = row.difference.low, row.difference.high, _style(row.difference)
            difference = Text(f"{row.difference.mean:+.4f}", style)
            interval = f"{low:+.4f} to {high:+.4f}"
            words = Text("better" if low > 0 else "worse" if high < 0 else "no better", style)
        seconds = "" if row.seconds is None else _time(row.seconds)
        table.add_row(Text(disclose(row.name)), f"{row.ndcg:.4f}", difference, interval, seconds, words)
    console.print(table)
    console.print()
    sentence = (
        f"{judgement.queries:,} judged queries over {judgement.passages:,} passages. Teachers rerank the same first "
        f"{judgement.depth} candidates (base and BM25, fused); the best order of these has {judgement.ideal:.4f}."
    )
    for line in (sentence, *judgement.notes):
        console.print(Text(disclose(line)))


def _style(difference: Difference) -> str:
    return "green" if difference.low > 0 else "red" if difference.high < 0 else ""


def _time(seconds: float) -> str:
    """A time per query; a teacher that only multiplies vectors takes hardly any."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.1f} ms" if seconds >= 1e-4 else "< 0.1 ms"
