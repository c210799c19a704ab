"""The command `listwise doctor`: runs all checks on this machine and on the cluster, and prints their findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.doctor.finding import Finding, is_sound, print_table, to_json

if TYPE_CHECKING:
    from rich.console import Console

    from launcher.recipe import Recipe


def run_checks(recipe: Recipe | None = None, address: str | None = None) -> list[Finding]:
    """The findings of all checks that are possible before a run.

    Args:
        recipe: its workdir, models, files and pools are checked as well.
        address: address of the Ray cluster. None means the recipe's cluster; without one, only this machine is checked.

    Raises:
        InputError: no cluster answers at the address.
    """
    from launcher.doctor import machine, nodes

    findings = list(machine.check_machine())
    address = address or (recipe.cluster.address if recipe else None)
    if address:
        return findings + list(nodes.check_cluster(address, recipe))
    return findings + (list(nodes.check_recipe_here(recipe)) if recipe else [])


def report_checks(
    recipe: Recipe | None = None, address: str | None = None, *, as_json: bool = False, console: Console | None = None
) -> bool:
    """Runs all checks and prints their findings; returns False if one of them is a failure."""
    from rich.console import Console as Terminal

    findings = run_checks(recipe, address)
    if as_json:
        print(to_json(findings))
    else:
        print_table(findings, console or Terminal(highlight=False))
    return is_sound(findings)
