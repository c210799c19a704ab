"""`listwise doctor`: is this machine, or a whole cluster, fit to be trusted with a run? Every finding has a remedy.

finding       what a finding is, and how it is shown
machine, hub  one machine by itself
workdir       is the workdir the same place everywhere
collectives   do ranks on different nodes reach each other, and how fast
node          all of these as seen from one node
nodes         asks every node of a cluster, and compares
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.doctor.finding import Finding, is_sound, print_table, to_json

if TYPE_CHECKING:
    from rich.console import Console

    from launcher.recipe import Recipe


def examine(recipe: Recipe | None = None, address: str | None = None) -> list[Finding]:
    """Everything that can be known before a run.

    Args:
        recipe: whose workdir, models, files and pools are tried.
        address: of the cluster; empty: the recipe's, and if it has none, this machine alone.

    Raises:
        InputError: no cluster answers at the address.
    """
    from launcher.doctor import machine, nodes

    findings = list(machine.examine())
    address = address or (recipe.cluster.address if recipe else None)
    if address:
        return findings + list(nodes.examine(address, recipe))
    return findings + (list(nodes.examine_here(recipe)) if recipe else [])


def report(
    recipe: Recipe | None = None, address: str | None = None, *, as_json: bool = False, console: Console | None = None
) -> bool:
    """Examines and prints; False if something fails."""
    from rich.console import Console as Terminal

    findings = examine(recipe, address)
    if as_json:
        print(to_json(findings))
    else:
        print_table(findings, console or Terminal(highlight=False))
    return is_sound(findings)
