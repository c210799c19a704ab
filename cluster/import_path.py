"""Where processes of a run import from: never from the folder that somebody happened to call the command in.

A file `cluster.py`, `datasets.py` or `random.py` there would otherwise take the place of the package of that name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the folder of this project's packages
SAFE = "PYTHONSAFEPATH"  # with it Python adds neither the current folder nor a script's to the path


def without_working_directory(path: Sequence[str]) -> list[str]:
    """An import path without the current folder, however it is written; it stays if this project's packages lie in it.

    Args:
        path: entries of `sys.path`; an empty one is the current folder.
    """
    return [entry for entry in path if not is_working_directory(entry)]


def is_working_directory(entry: str) -> bool:
    """Whether an entry of an import path is the current folder, and does not hold this project's packages."""
    try:
        here = Path.cwd()
        return here != ROOT and Path(entry or ".").resolve() == here
    except OSError:  # the folder has been removed
        return not entry


def child_variables() -> dict[str, str]:
    """Variables of the environment with which Python programs do not import from the current folder.

    PYTHONPATH may hold it by mistake: it is an empty entry in `:/opt/modules`.
    """
    named = os.environ.get("PYTHONPATH", "")
    kept = without_working_directory(named.split(os.pathsep)) if named else []
    return {SAFE: "1", **({"PYTHONPATH": os.pathsep.join(filter(None, kept))} if named else {})}


@contextlib.contextmanager
def safe_children() -> Iterator[None]:
    """Inside, Python programs that this process starts do not import from the current folder."""
    variables = child_variables()
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
