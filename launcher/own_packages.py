"""The packages of this project are those that Python finds under their names, before any of them is used.

This file imports the standard library alone, since what it looks for may stand in the place of any other package.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("cluster", "distill", "generation", "launcher", "listwise")


def leave_working_directory() -> None:
    """Takes the current folder off this process's import path, unless the packages lie in it.

    It is there under `python -m`, and with an empty entry in PYTHONPATH. A file `yaml.py` or `cluster.py` in the folder
    of the call must not take the place of a package.
    """
    here = Path.cwd()
    if here != ROOT:
        sys.path[:] = [entry for entry in sys.path if Path(entry or here).absolute() != here]


def what_hides_them() -> str | None:
    """One sentence that names a foreign package of the same name, with the remedy; None if there is none."""
    for name in NAMES:
        spec = importlib.util.find_spec(name)
        found = spec and (spec.origin or next(iter(spec.submodule_search_locations or []), None))
        if not found or Path(found).resolve().is_relative_to(ROOT / name):
            continue
        where = Path(found).parent if Path(found).name == "__init__.py" else Path(found)
        return (
            f"{where} hides the package `{name}` of Listwise, since Python finds it first: {_remedy(name, where)}, "
            "or install Listwise into a virtual environment of its own."
        )
    return None


def _remedy(name: str, where: Path) -> str:
    """What to do about a foreign package or file."""
    folder = where.parent
    if folder.name in ("site-packages", "dist-packages"):
        return f"uninstall the package that holds it ({_distribution(name)})"
    if str(folder) in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        return f"take {folder} out of PYTHONPATH"
    return "rename it"


def _distribution(name: str) -> str:
    from importlib.metadata import packages_distributions

    owners = [owner for owner in packages_distributions().get(name, []) if owner != "listwise"]
    return f"pip uninstall {owners[0]}" if owners else f"pip list shows its name, perhaps {name}"
