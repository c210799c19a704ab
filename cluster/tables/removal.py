"""What a command may remove from a workdir. The rule stands here once, and `Storage.delete` keeps it.

1. Nothing behind a symbolic link is removed, and no link to a folder: the command refuses, before it removes anything.
2. In the folder of a table only files go whose names a table gives them. Other files stay, and are named in the log.
3. The folders of training, model, evaluation and adapted teachers go as a whole. Libraries write into them, whose names
   nobody can list. A run never begins in a workdir where a person has files under these names.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from cluster.errors import InputError

WHOLE = ("training", "model", "evaluation", "teachers")
_HEX = "[0-9a-f]{12,}"  # of a sha256 or the id of a plan
_OF_A_TABLE = re.compile(
    rf"(.*/)?(?:(plan|progress|record)\.json|(complete|prompt_style|budget)\.{_HEX}\.json"
    rf"|logs/[\w-]+\.log|logs/owners/[\w+-]+\.lock|(data|rejects|dropped|commits|withdrawn)/[^/]+\.{_HEX}\.(parquet|json))(#\d+)?"
)
_log = logging.getLogger(__name__)


def is_removable(path: str) -> bool:
    """Whether an object of a workdir, by its path there, is one that a stage has made."""
    return path.split("/", 1)[0] in WHOLE or bool(_OF_A_TABLE.fullmatch(path))


def remove_folder(workdir: Path, path: str) -> None:
    """Removes what a stage has made in a folder of a workdir, also while other processes remove it.

    Raises:
        InputError: the folder, or one inside of it, is a symbolic link. Nothing is removed then.
    """
    files = list(_files(workdir / path))
    kept = []
    for file in files:
        if is_removable(name := file.relative_to(workdir).as_posix()):
            file.unlink(missing_ok=True)
        else:
            kept.append(name)
    for folder, _, _ in os.walk(workdir / path, topdown=False):
        with contextlib.suppress(OSError):  # it is not empty, or another process has removed it
            Path(folder).rmdir()
    if kept:
        _log.warning("%s: no stage has made %s, so they stay", workdir, ", ".join(sorted(kept)))


def _files(folder: Path) -> Iterator[Path]:
    _refuse_link(folder)
    for root, folders, names in os.walk(folder):
        for name in folders:
            _refuse_link(Path(root, name))
        yield from (Path(root, name) for name in names)


def _refuse_link(folder: Path) -> None:
    if folder.is_symlink():
        raise InputError(
            f"{folder} is a symbolic link to {folder.readlink()}. Nothing behind a link is removed. Remove what is in "
            "that folder yourself, or the link, and call the same command again."
        )
