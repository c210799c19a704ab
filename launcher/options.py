"""Arguments and options that several commands share. This module imports nothing but typer."""

from __future__ import annotations

from typing import Annotated

import typer

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="recipe file, or the name of a shipped recipe")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="override a field; may be repeated")
]
UntilOption = Annotated[str, typer.Option("--until", metavar="STAGE", help="stop after this stage")]
OverwriteOption = Annotated[
    list[str] | None,
    typer.Option(
        "--overwrite",
        metavar="STAGE",
        help="do this stage and all later ones again; scores/TEACHER or embeddings/RETRIEVER: that one alone, and all "
        "later stages; may be repeated",
    ),
]
WorkdirArgument = Annotated[str, typer.Argument(metavar="WORKDIR", help="folder or url of a run")]


def say(text: object, stderr: bool = False) -> None:
    """Prints a text; control characters in it do nothing to the terminal."""
    from cluster.disclosure import printable

    typer.echo(printable(str(text)), err=stderr)
