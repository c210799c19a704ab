"""The parcel of a job: the folder that Ray sends with it (its working_dir), with the resolved recipe and the code.

The code is sent only if Listwise runs from a checkout. Its files are linked into the folder. Files that git ignores,
data and runs are not sent.
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

RECIPE = ".listwise/recipe.yaml"  # the recipe in the parcel; its own folder, so that it replaces no file of the tree
PACKAGES = ("launcher", "cluster", "generation", "distill")
NEVER_SENT = (".git", ".venv", "venv", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis", ".tox", "node_modules")
NEVER_SENT_FROM_ROOT = ("runs", "data")
LIMIT_BYTES = 512 * 2**20  # the most that Ray's dashboard accepts


def checkout() -> Path | None:
    """Root of the source tree that this process runs from; None if Listwise is installed as a package."""
    root = Path(launcher.__file__).resolve().parent.parent
    is_complete = all((root / name / "__init__.py").is_file() for name in PACKAGES)
    return root if is_complete and (root / "pyproject.toml").is_file() else None


def pack(recipe: str, root: Path | None, folder: Path, workdir: str, limit_bytes: int = LIMIT_BYTES) -> list[str]:
    """Fills `folder` with the parcel of a job; returns the paths of the tree's files in it.

    Args:
        recipe: the resolved recipe, YAML.
        root: root of the checkout to send, or None.
        folder: an empty folder.
        workdir: of the run; it is not sent if it is inside the tree.

    Raises:
        InputError: the tree is larger than Ray accepts; the message names its largest folders.
    """
    (folder / RECIPE).parent.mkdir(parents=True)
    (folder / RECIPE).write_text(recipe, encoding="utf-8")
    if root is None:
        return []
    paths = sorted(paths_to_send(root, workdir))
    _check_size(root, paths, limit_bytes)
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(root / path)
    return paths


def paths_to_send(root: Path, workdir: str) -> Iterator[str]:
    """Yields the files of a tree that a job gets: those that git does not ignore; without git, all files.

    In both cases without `NEVER_SENT`, `NEVER_SENT_FROM_ROOT` and the workdir.
    """
    git_paths = _listed_by_git(root)
    for path in _walk(root) if git_paths is None else git_paths:
        parts = PurePosixPath(path).parts
        if parts[0] in NEVER_SENT_FROM_ROOT or any(_matches(part, NEVER_SENT) for part in parts):
            continue
        if (root / path).is_relative_to(workdir) or not (root / path).is_file():
            continue
        yield path


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _listed_by_git(root: Path) -> list[str] | None:
    """The files that git tracks or would track; None if there is no git, or the tree is in no repository."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    paths = [os.fsdecode(path) for path in done.stdout.split(b"\0") if path]
    if f"{PACKAGES[0]}/__init__.py" not in paths:
        return None  # the tree is an ignored folder of another repository
    # Ray obeys .gitignore files as well, and one that ignores *.yaml would remove the recipe from the parcel.
    return [path for path in paths if PurePosixPath(path).name != ".gitignore"]


def _walk(root: Path) -> Iterator[str]:
    for folder, names, files in os.walk(root):
        relative = Path(folder).relative_to(root)
        patterns = (*NEVER_SENT, *NEVER_SENT_FROM_ROOT) if relative == Path() else NEVER_SENT
        names[:] = [name for name in names if not _matches(name, patterns)]
        yield from (str(relative / file) for file in files)


def _check_size(root: Path, paths: list[str], limit_bytes: int) -> None:
    sizes = {path: (root / path).stat().st_size for path in paths}
    if (total := sum(sizes.values())) < limit_bytes:
        return
    folders: Counter[str] = Counter()
    for path, size in sizes.items():
        folders[str(PurePosixPath(path).parent)] += size
    largest = ", ".join(f"{folder} ({_mib(size)})" for folder, size in folders.most_common(3))
    raise InputError(
        f"the tree {root} has {_mib(total)} to send, but Ray accepts {_mib(limit_bytes)}. The largest folders: "
        f"{largest}. List what the job does not need in .gitignore, and keep data on a storage that the cluster sees."
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
