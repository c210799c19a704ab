"""The command `lists`: the training lists of a run, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher.options import WorkdirArgument, say


def add_to(app: typer.Typer) -> None:
    """Adds this command to the command line."""
    app.command()(lists)


def lists(
    workdir: WorkdirArgument,
    export: Annotated[
        Path, typer.Option(metavar="FILE", help="JSON lines to write, one query a line; gzipped if it ends in .gz")
    ],
) -> None:
    """Write the training lists of a run to a file, which `listwise train --lists FILE` and other programs read."""
    from cluster.errors import InputError
    from cluster.tables.table import Table
    from distill.lists.export import export as write
    from launcher.look import existing

    storage = existing(workdir)
    tables = []
    for name in ("lists", "passages"):
        try:
            table = Table.open(storage, name)
        except KeyError:
            table = None
        if table is None or not table.complete:
            raise InputError(
                f"{workdir}: the table `{name}` does not exist yet or is not finished. Finish it first: listwise run "
                "RECIPE --until lists"
            )
        tables.append(table)
    count = write(*tables, export.expanduser())
    say(f"Wrote {count:,} {'list' if count == 1 else 'lists'} to {export}")
