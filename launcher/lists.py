"""The command `lists`: the training lists of a run, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.options import WorkdirArgument, say

if TYPE_CHECKING:
    from cluster.tables.storage import Storage
    from cluster.tables.table import Table


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
    from distill.lists.export import export as write
    from launcher.look import existing

    storage = existing(workdir)
    count = write(_finished(storage, "lists"), _finished(storage, "passages"), export.expanduser())
    say(f"Wrote {count:,} {'list' if count == 1 else 'lists'} to {export}")


def _finished(storage: Storage, name: str) -> Table:
    from cluster.errors import InputError
    from cluster.tables.table import Table

    try:
        table = Table.open(storage, name)
    except KeyError:
        table = None
    if table is None or not table.complete:
        raise InputError(
            f"{storage.url}: the table `{name}` does not exist yet or is not finished. Finish it first: listwise run "
            "RECIPE --until lists"
        )
    return table
