"""The checks that run on every node, in an actor that is pinned to the node.

Ray does not send this module to the node; the node imports its own. So a node without listwise is noticed too.
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
from typing import TYPE_CHECKING

from cluster.machines.hub import ModelName
from launcher.doctor import hub, machine, workdir
from launcher.doctor.collectives import AllReduceTimes, Rendezvous, open_store, time_all_reduce
from launcher.doctor.finding import Finding
from launcher.environment import ENGINES, installed_version

if TYPE_CHECKING:
    from launcher.model_checks import Checked

COMPARED_PACKAGES = ("torch", "ray", "deepspeed", "transformers", "sentence-transformers", *ENGINES)
PACKAGES = ("launcher", "cluster", "generation", "distill")


@dataclass(frozen=True)
class RecipeNeeds:
    """The models, files and trackers that a recipe needs on a node.

    Attributes:
        models: field of the recipe → model that a stage loads, with its revision.
        files: field of the recipe → file or folder that a stage reads.
        trackers: names of the trackers that training writes to.
        tried: section of the recipe → encoder, teacher or engine, whose model is tried.
    """

    models: Mapping[str, ModelName] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    trackers: tuple[str, ...] = ()
    tried: Mapping[str, Checked] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeReport:
    """The result of one node: versions to compare with those of other nodes, and findings."""

    versions: dict[str, str]
    findings: list[Finding]


class Node:
    """The actor that answers questions about its machine. It uses no Ray, so the driver calls it directly as well."""

    def __init__(self, ray_temp: str | None = None) -> None:
        self._ray_temp = ray_temp
        if not os.environ.get("CUDA_VISIBLE_DEVICES", "all"):
            # Ray hides the GPUs from an actor that requests none. This actor only lists them: it needs none of its own
            # and must not wait for one.
            del os.environ["CUDA_VISIBLE_DEVICES"]

    def clock(self) -> float:
        """The time of day on this node, in seconds since 1970."""
        return time.time()

    def examine(self, needs: RecipeNeeds, *, with_machine: bool = True) -> NodeReport:
        """Runs the checks of the machine (if `with_machine`), and checks what a recipe needs."""
        findings = list(machine.check_machine(self._ray_temp)) if with_machine else []
        return NodeReport(versions(), [*findings, *check_needs(needs)])

    def answer_probe(self, url: str, probe_name: str, answer_name: str) -> str:
        """See `workdir.answer_probe`."""
        return workdir.answer_probe(url, probe_name, answer_name)

    def open_store(self, host: str) -> int:
        """See `collectives.open_store`; the actor keeps the store and returns its port."""
        self._store, port = open_store(host)
        return port

    def time_all_reduce(self, rendezvous: Rendezvous, rank: int) -> AllReduceTimes:
        """See `collectives.time_all_reduce`."""
        return time_all_reduce(rendezvous, rank)


def check_needs(needs: RecipeNeeds) -> list[Finding]:
    """Checks whether this machine has the models, files and trackers of a recipe, and tries them."""
    findings = list(hub.check_models(needs.models))
    if all(finding.level != "failure" for finding in findings):
        findings += hub.try_models(needs.tried)
    for field_name, path in needs.files.items():
        if Path(path).expanduser().exists():
            findings.append(Finding("ok", "file", f"{field_name}: {path}"))
        else:
            remedy = "put it where every node sees it: the stages that read it run on any node"
            findings.append(Finding("failure", "file", f"{field_name}: there is no {path}", remedy))
    if missing := [name for name in needs.trackers if not installed_version(name)]:
        remedy = f"pip install {' '.join(missing)}, or remove the name from training.trackers"
        text = f"training.trackers names {', '.join(missing)}, which is not installed"
        findings.append(Finding("failure", "trackers", text, remedy))
    return findings


def versions() -> dict[str, str]:
    """Versions that must be equal on all nodes; that of listwise holds a digest of its code as well."""
    code = f"{installed_version('listwise') or '?'}+{code_digest()}"
    packages = {name: installed_version(name) or "none" for name in COMPARED_PACKAGES}
    return {"listwise": code, "python": platform.python_version(), **packages}


def code_digest() -> str:
    """Eight hex digits that change with every change of a module in the four packages of this node."""
    digest = hashlib.sha256()
    for name in PACKAGES:
        __import__(name)
        root = Path(str(sys.modules[name].__file__)).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{name}/{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:8]
