"""A folder of one process for files that mean nothing without it, such as sockets.

A process that is killed removes nothing. So each folder is locked while its process lives, and the next process that
wants such a folder removes those without a lock. The kernel drops the lock of a process that dies, however it dies.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from cluster.machines.private_folder import private_folder
from cluster.machines.shared_folder import locked

_own: dict[tuple[str, int], Path] = {}  # (kind, process id) → folder; a forked process has none yet


def own_folder(kind: str) -> Path:
    """The folder of this process for files of a kind, among the temporary files of this user; always the same one.

    Args:
        kind: name of the folder in which those of all processes lie.

    Raises:
        OSError: temporary files cannot be written or locked.
        InputError: other users can enter the folder for temporary files.
    """
    key = (kind, os.getpid())
    if key not in _own:
        root = root_of(kind)
        root.mkdir(mode=0o700, exist_ok=True)
        _remove_left(root)
        _own[key] = _make(root)
        atexit.register(_remove_of, *key)
    return _own[key]


def _remove_of(kind: str, process: int) -> None:
    if process == os.getpid():  # a forked process has what its parent registered
        shutil.rmtree(_own[kind, process], ignore_errors=True)


def root_of(kind: str) -> Path:
    """Where the folders of all processes lie."""
    return private_folder() / kind


def _make(root: Path) -> Path:
    """A new folder, whose lock this process keeps until it ends."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix="", dir=root))
        with contextlib.suppress(BlockingIOError):
            if locked(folder, fcntl.LOCK_SH | fcntl.LOCK_NB) is not None:
                return folder
        # another process took it for one that was left, before it had its lock


def _remove_left(root: Path) -> None:
    for folder in root.iterdir():
        with contextlib.suppress(OSError):  # its process lives, or another process removes it at the same time
            if (lock := locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)) is not None:
                try:
                    shutil.rmtree(folder)
                finally:
                    os.close(lock)
