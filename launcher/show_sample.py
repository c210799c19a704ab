"""Prints passages and what was written for them: in columns on a terminal, one plain line each elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.disclosure import disclose
from cluster.unicode import valid_utf8
from launcher.sample import QuerySample, Sampled, Written

PASSAGE_CHARACTERS = 400
NOTHING = "(nothing was written)"


def print_sampled(sampled: Sequence[Sampled], console: Console | None = None) -> None:
    """Prints passages one below the other."""
    console = console or Console(highlight=False)
    wraps = console.is_terminal
    for one in sampled:
        title = one_line(one.title)
        heading = Text.assemble((title, "bold"), "  " if title else "", (one_line(one.passage_id), "dim"))
        console.print(heading, soft_wrap=not wraps)
        console.print(
            Text(one_line(one.text, PASSAGE_CHARACTERS), "" if not one.written else "dim"), soft_wrap=not wraps
        )
        if one.neighbour:
            console.print(Text(f"+ {one_line(one.neighbour, PASSAGE_CHARACTERS)}", "dim"), soft_wrap=not wraps)
        width = max((len(_kind(written)) for written in one.written), default=0)
        if wraps:
            grid = Table.grid(padding=(0, 2, 0, 0))
            grid.add_column(min_width=width, no_wrap=True)
            grid.add_column()
            for written in one.written:
                grid.add_row(Text(f"  {_kind(written)}", "cyan"), _written(written))
            console.print(grid)
        else:
            for written in one.written:
                line = Text(f"  {_kind(written):<{width}}  ") + _written(written)
                console.print(line, soft_wrap=True)
        console.print()


def print_totals(sample: QuerySample, console: Console | None = None) -> None:
    """Prints how many queries there are, and what the reasons took; the names are those that --dropped takes."""
    console = console or Console(highlight=False)
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sample.drops.most_common())
    line = f"{sample.kept:,} queries kept so far; {f'dropped: {reasons}' if reasons else 'none dropped'}"
    console.print(Text(one_line(line)), soft_wrap=not console.is_terminal)


def one_line(text: str, most: int | None = None) -> str:
    """A text from files on one line, safe to print, cut after `most` characters."""
    line = " ".join(disclose(valid_utf8(text)).split())
    return line if most is None or len(line) <= most else line[: most - 1] + "…"


def _kind(written: Written) -> str:
    return one_line(f"{written.query_type} ({written.writer})" if written.writer else written.query_type)


def _written(written: Written) -> Text:
    text = one_line(written.text)
    if written.reason is None:
        return Text(text)
    return Text.assemble((f"✗ {one_line(written.reason)}: ", "red"), (text or NOTHING, "dim"))
