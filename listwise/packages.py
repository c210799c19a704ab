"""The packages behind this one, whatever lies in the folder of the notebook or on the import path."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])


@contextlib.contextmanager
def ours() -> Iterator[None]:
    """Inside, imports find the packages of Listwise, and nothing in the current folder.

    Raises:
        ImportError: another package hides one of ours; the message names it, with the remedy.
    """
    sys.path.insert(0, ROOT)
    try:
        from launcher.own_packages import without_working_directory
    except ImportError as error:
        place = getattr(sys.modules.get("launcher"), "__file__", None)
        raise ImportError(f"{place} has the name of a package of Listwise: rename it.") from error
    finally:
        sys.path.remove(ROOT)
    with without_working_directory():
        yield
