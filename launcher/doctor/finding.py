"""A finding: one thing that was looked at, where, and what to do if it is wrong. A table, or JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.disclosure import disclose

Level = Literal["ok", "warning", "failure"]

HERE = "this machine"
SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failure": ("✗", "red")}


@dataclass(frozen=True)
class Finding:
    """One checked thing. A failure means that runs cannot work there; only those end the command with 1.

    Attributes:
        level: ok, warning or failure.
        what: the thing, in a word or two.
        found: what is there.
        remedy: what to do; empty if it is well.
        node: where.
    """

    level: Level
    what: str
    found: str
    remedy: str = ""
    node: str = HERE


def is_sound(findings: Sequence[Finding]) -> bool:
    """Whether nothing fails."""
    return all(finding.level != "failure" for finding in findings)


def to_json(findings: Sequence[Finding]) -> str:
    """Everything, for machines."""
    plain = [{key: disclose(text) for key, text in asdict(finding).items()} for finding in findings]
    return json.dumps({"sound": is_sound(findings), "findings": plain}, indent=1)


def merged(findings: Sequence[Finding]) -> list[Finding]:
    """Findings that read the same on several nodes as one, so that a thousand nodes in order are a few lines."""
    nodes: dict[Finding, list[str]] = {}
    for finding in findings:
        nodes.setdefault(replace(finding, node=""), []).append(finding.node)
    return [
        replace(finding, node=where[0] if len(where) == 1 else f"{len(where)} nodes")
        for finding, where in nodes.items()
    ]


def print_table(findings: Sequence[Finding], console: Console) -> None:
    """A line a finding, the remedy under it; folds at the width of the terminal."""
    shown = merged(findings)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=22)
    table.add_column(overflow="fold", ratio=1)
    for finding in shown:
        sign, style = SIGNS[finding.level]
        cell = Text(disclose(finding.found))
        if finding.remedy:
            cell.append(f"\n→ {disclose(finding.remedy)}")
        table.add_row(Text(sign, style), Text(disclose(finding.what)), Text(disclose(finding.node)), cell)
    console.print(table)
