"""The parcel of a job: the resolved recipe, and the code where Listwise runs from a checkout.

Files are linked into a folder, which Ray packs and sends. What git ignores stays at home, and so do data and runs.
"""

from __future__ import annotations

import fnmatch
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import launcher
from cluster.errors import InputError

RECIPE = ".listwise/recipe.yaml"  # where the job finds it; a folder of its own, so that it hides no file of the tree
PACKAGES = ("launcher", "cluster", "generation", "distill")
NEVER = (".git", ".venv", "venv", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis", ".tox", "node_modules")
NEVER_ON_TOP = ("runs", "data")
LIMIT_BYTES = 512 * 2**20  # what the dashboard of Ray takes


def checkout() -> Path | None:
    """Root of the source tree that this process runs from; None where Listwise is installed as a package."""
    root = Path(launcher.__file__).resolve().parent.parent
    whole = all((root / name / "__init__.py").is_file() for name in PACKAGES)
    return root if whole and (root / "pyproject.toml").is_file() else None


def pack(recipe: str, root: Path | None, folder: Path, workdir: str, limit_bytes: int = LIMIT_BYTES) -> list[str]:
    """Fills `folder` with a job's parcel; returns the paths of the tree in it.

    Args:
        recipe: the resolved recipe, YAML.
        root: the checkout to send, or None.
        folder: an empty folder.
        workdir: of the run; it stays at home if it lies in the tree.

    Raises:
        InputError: the tree is larger than Ray takes; names its largest folders.
    """
    (folder / RECIPE).parent.mkdir(parents=True)
    (folder / RECIPE).write_text(recipe, encoding="utf-8")
    if root is None:
        return []
    paths = sorted(chosen(root, workdir))
    _check_size(root, paths, limit_bytes)
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(root / path)
    return paths


def chosen(root: Path, workdir: str) -> Iterator[str]:
    """What a job gets of a tree: what git tracks or would track; all files where git or its repository is missing."""
    listed = _listed_by_git(root)
    for path in _walk(root) if listed is None else listed:
        parts = PurePosixPath(path).parts
        if parts[0] in NEVER_ON_TOP or any(fnmatch.fnmatch(part, one) for part in parts for one in NEVER):
            continue
        if (root / path).is_relative_to(workdir) or not (root / path).is_file():
            continue
        yield path


def _listed_by_git(root: Path) -> list[str] | None:
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    paths = [os.fsdecode(path) for path in done.stdout.split(b"\0") if path]
    if f"{PACKAGES[0]}/__init__.py" not in paths:
        return None  # the tree lies in what another one ignores
    # Ray reads these again, and one that ignores *.yaml would take the recipe away
    return [path for path in paths if PurePosixPath(path).name != ".gitignore"]


def _walk(root: Path) -> Iterator[str]:
    for folder, names, files in os.walk(root):
        here = Path(folder).relative_to(root)
        on_top = NEVER_ON_TOP if here == Path() else ()
        names[:] = [name for name in names if not any(fnmatch.fnmatch(name, one) for one in (*NEVER, *on_top))]
        yield from (str(here / file) for file in files)


def _check_size(root: Path, paths: list[str], limit_bytes: int) -> None:
    sizes = {path: (root / path).stat().st_size for path in paths}
    if (total := sum(sizes.values())) < limit_bytes:
        return
    folders: Counter[str] = Counter()
    for path, size in sizes.items():
        folders[str(PurePosixPath(path).parent)] += size
    largest = ", ".join(f"{folder} ({_mib(size)})" for folder, size in folders.most_common(3))
    raise InputError(
        f"the tree {root} has {_mib(total)} to send, Ray takes {_mib(limit_bytes)}. The largest folders: {largest}. "
        "Name what the job does not need in .gitignore, and keep data on storage that the cluster sees."
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
