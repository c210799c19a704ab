"""A folder of costly files, such as an index: one process of a machine makes them, and all its processes read them.

The folder lies among this user's temporary files. A lock on the folder itself shows its use: the lock is exclusive
while one process fills the folder, and shared while processes read it, for as long as they live. The kernel drops the
lock of a process that dies, however it dies. So after a death the next process fills the folder anew, and a folder
without a lock is unused and can be removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from cluster.machines.private_folder import private_folder

UNUSED_S = 3600.0  # a folder without readers stays so long, since the next stage may need it
COMPLETE = "complete"  # an empty file; its modification time is when the folder was last opened

_locks: list[int] = []  # descriptors of the folders that this process reads


def shared_folder(name: str, make: Callable[[Path], None]) -> Path:
    """The path of the machine's folder `name`; the first process that asks fills the folder, the others wait for it.

    The folder stays while a process that asked for it lives. When no such process lives and nobody has opened the
    folder for an hour, the next call for another folder removes it.

    Args:
        name: identifies the content; different contents need different names.
        make: fills an empty folder with files. If it raises an error, the folder is removed and the error raised here.

    Raises:
        OSError: temporary files cannot be written or locked.
        InputError: other users can enter the folder for temporary files.
    """
    root = private_folder() / "made"
    root.mkdir(mode=0o700, exist_ok=True)
    _remove_unused(root, name)
    folder = root / name
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        if (lock := locked(folder, fcntl.LOCK_SH)) is None:
            continue
        if (folder / COMPLETE).exists():
            (folder / COMPLETE).touch()
            _locks.append(lock)
            return folder
        os.close(lock)
        if (lock := locked(folder, fcntl.LOCK_EX)) is not None:
            try:
                _fill(folder, make)
            finally:
                os.close(lock)


def _fill(folder: Path, make: Callable[[Path], None]) -> None:
    """Fills a locked folder, unless another process filled it before this one got the lock."""
    if (folder / COMPLETE).exists():
        return
    for leftover in folder.iterdir():  # a process that died left these
        leftover.unlink()
    try:
        make(folder)
        for path in [*folder.iterdir(), folder]:  # a power cut must not keep the mark COMPLETE and lose the files
            _sync(path)
        (folder / COMPLETE).touch()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    """Waits until the content of a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def locked(folder: Path, kind: int) -> int | None:
    """A file descriptor that holds a lock of this kind on a folder; None if the folder was removed meanwhile.

    Raises:
        BlockingIOError: another process holds the lock, and `kind` says not to wait.
    """
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, kind)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), folder.stat()):
                return lock
    except OSError:
        os.close(lock)
        raise
    os.close(lock)
    return None


def _remove_unused(root: Path, wanted: str) -> None:
    """Removes the folders that no process reads and that were not opened for `UNUSED_S`; `wanted` stays."""
    for folder in root.iterdir():
        with contextlib.suppress(OSError):  # another process reads the folder, or removes it at the same time
            if folder.name == wanted or (lock := locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)) is None:
                continue
            try:
                last_opened = folder / COMPLETE if (folder / COMPLETE).exists() else folder
                if time.time() - last_opened.stat().st_mtime > UNUSED_S:
                    shutil.rmtree(folder)
            finally:
                os.close(lock)
