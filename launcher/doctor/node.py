"""What is looked at on every node, by an actor that is pinned there.

Ray does not send this module along: it is the node's own, so a node without listwise is found out too.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.doctor import hub, machine, workdir
from launcher.doctor.collectives import Measured, Meeting, measure, open_meeting
from launcher.doctor.finding import Finding
from launcher.environment import ENGINES, installed_version

COMPARED = ("torch", "ray", "deepspeed", "transformers", "sentence-transformers", *ENGINES)
PACKAGES = ("launcher", "cluster", "generation", "distill")


@dataclass(frozen=True)
class Wanted:
    """What a recipe needs on a node.

    Attributes:
        models: field → model that is loaded there.
        files: field → file or folder that is read there.
        trackers: that write there.
    """

    models: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    trackers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Look:
    """What a node is: versions to compare with other nodes', and findings of its own."""

    versions: dict[str, str]
    findings: list[Finding]


class Node:
    """Answers for the machine that it runs on. No Ray in here: the driver's own is looked at by the same calls."""

    def __init__(self, temp: str | None = None) -> None:
        self._temp = temp
        if not os.environ.get("CUDA_VISIBLE_DEVICES", "all"):
            # Ray hides GPUs from an actor that asks for none; to look at them takes none, and must not wait for one
            del os.environ["CUDA_VISIBLE_DEVICES"]

    def clock(self) -> float:
        """Its time of day."""
        return time.time()

    def look(self, wanted: Wanted, *, whole: bool = True) -> Look:
        """Examines the machine (if `whole`), and whether it has what a recipe needs."""
        findings = list(machine.examine(self._temp)) if whole else []
        return Look(versions(), [*findings, *needs(wanted)])

    def answer(self, url: str, name: str, own: str) -> str:
        """See `workdir.answer`."""
        return workdir.answer(url, name, own)

    def open_meeting(self, host: str) -> int:
        """See `collectives.open_meeting`."""
        self._meeting, port = open_meeting(host)
        return port

    def measure(self, meeting: Meeting, rank: int) -> Measured:
        """See `collectives.measure`."""
        return measure(meeting, rank)


def needs(wanted: Wanted) -> list[Finding]:
    """Whether this machine has a recipe's models, files and trackers."""
    findings = list(hub.models(wanted.models))
    for name, place in wanted.files.items():
        if Path(place).expanduser().exists():
            findings.append(Finding("ok", "file", f"{name}: {place}"))
        else:
            remedy = "keep it where every node sees it: stages that read it run anywhere"
            findings.append(Finding("failure", "file", f"{name}: there is no {place}", remedy))
    if lacking := [name for name in wanted.trackers if not installed_version(name)]:
        remedy = f"pip install {' '.join(lacking)}, or take it out of training.trackers"
        findings.append(Finding("failure", "trackers", f"training.trackers names {', '.join(lacking)}", remedy))
    return findings


def versions() -> dict[str, str]:
    """What must be alike on all nodes. Of listwise itself the code counts, not the number."""
    found: dict[str, Any] = {"listwise": f"{installed_version('listwise') or '?'}+{code_digest()}"}
    found["python"] = platform.python_version()
    return found | {name: installed_version(name) or "none" for name in COMPARED}


def code_digest() -> str:
    """Eight characters that change with any module of the four packages, as they are imported here."""
    total = hashlib.sha256()
    for name in PACKAGES:
        __import__(name)
        root = Path(str(sys.modules[name].__file__)).parent
        for path in sorted(root.rglob("*.py")):
            total.update(f"{name}/{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return total.hexdigest()[:8]
