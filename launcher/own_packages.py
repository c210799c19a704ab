"""The packages of this project are those that Python finds under their names, before any of them is used.

This file imports the standard library alone, since what it looks for may stand in the place of any other package.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("cluster", "distill", "generation", "launcher")


def leave_working_directory() -> None:
    """Takes the current folder off this process's import path, unless the packages lie in it.

    It is there under `python -m`, in notebooks, and with an empty entry in PYTHONPATH. A file `yaml.py` or `cluster.py`
    in the folder of the call must not take the place of a package.
    """
    with contextlib.suppress(OSError):  # the folder has been removed
        here = Path.cwd()
        if here != ROOT:
            sys.path[:] = [entry for entry in sys.path if Path(entry or here).absolute() != here]


@contextlib.contextmanager
def without_working_directory() -> Iterator[None]:
    """Inside, this process does not import from the current folder.

    Raises:
        ImportError: another package hides one of ours.
    """
    before = list(sys.path)
    leave_working_directory()
    try:
        if hiding := what_hides_them():
            raise ImportError(hiding)
        yield
    finally:
        sys.path[:] = [*before, *(entry for entry in sys.path if entry not in before)]


def what_hides_them() -> str | None:
    """One sentence that names a foreign package of the same name, with the remedy; None if there is none."""
    for name in NAMES:
        loaded = getattr(sys.modules.get(name), "__spec__", None)
        for spec in filter(None, (loaded, _found(name))):
            place = spec.origin or next(iter(spec.submodule_search_locations or []), None)
            if place and not Path(place).resolve().is_relative_to(ROOT / name):
                where = Path(place).parent if Path(place).name == "__init__.py" else Path(place)
                return (
                    f"{where} hides the package `{name}` of Listwise, since Python finds it first: "
                    f"{_remedy(name, where)}, or install Listwise into a virtual environment of its own."
                )
    return None


def _found(name: str) -> ModuleSpec | None:
    """What `import` would find if nothing were loaded."""
    specs = (finder.find_spec(name, None) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return next(filter(None, specs), None)


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
