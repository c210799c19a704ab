"""A finding is the result of one check: what was checked, on which node, and what to do if it is wrong."""

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
CLUSTER = "the cluster"  # the node of a finding about all nodes
SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failure": ("✗", "red")}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        level: ok, warning or failure. A failure means that a run cannot work on the node, and the command exits with 1.
        what: the thing that was checked, in one or two words.
        found: what the check found.
        remedy: what to do about it; empty if the level is ok.
        node: the node that was checked.
    """

    level: Level
    what: str
    found: str
    remedy: str = ""
    node: str = HERE


def is_sound(findings: Sequence[Finding]) -> bool:
    """Whether no finding is a failure."""
    return all(finding.level != "failure" for finding in findings)


def to_json(findings: Sequence[Finding]) -> str:
    """All findings as JSON, for programs."""
    plain = [{key: disclose(text) for key, text in asdict(finding).items()} for finding in findings]
    return json.dumps({"sound": is_sound(findings), "findings": plain}, indent=1)


def merge_equal(findings: Sequence[Finding]) -> list[Finding]:
    """Findings that are equal on several nodes become one, so that a thousand sound nodes take a few lines."""
    nodes_by_finding: dict[Finding, list[str]] = {}
    for finding in findings:
        nodes_by_finding.setdefault(replace(finding, node=""), []).append(finding.node)
    return [
        replace(finding, node=nodes[0] if len(nodes) == 1 else f"{len(nodes)} nodes")
        for finding, nodes in nodes_by_finding.items()
    ]


def print_table(findings: Sequence[Finding], console: Console) -> None:
    """Prints one row for each finding, with its remedy on a second line; long texts wrap at the terminal's width."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=22)
    table.add_column(overflow="fold", ratio=1)
    for finding in merge_equal(findings):
        sign, style = SIGNS[finding.level]
        cell = Text(disclose(finding.found))
        if finding.remedy:
            cell.append(f"\n→ {disclose(finding.remedy)}")
        table.add_row(Text(sign, style), Text(disclose(finding.what)), Text(disclose(finding.node)), cell)
    console.print(table)
