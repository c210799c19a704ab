"""A folder that one process of a machine fills, and all others of it read: what is costly to make and the same for all.

It lies among this user's temporary files. A lock on the folder itself says who needs it: exclusive while it is filled,
shared for as long as a process that reads it lives. The kernel drops both when a process dies, however it dies, so that
the next one begins anew, and a folder that nobody needs can be known and removed.
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

UNUSED_S = 3600.0  # after which a folder that nobody reads goes: the next stage may need it again
COMPLETE = "complete"  # an empty file; its time is when the folder was last opened

_locks: list[int] = []  # descriptors of the folders that this process reads


def shared_folder(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of this machine; the first process that asks for it fills it, the others wait meanwhile.

    It stays as long as a process lives that has asked for it. After that, and when it was not opened for an hour, the
    next one that asks for another folder removes it.

    Args:
        name: tells the content; two contents never share one.
        make: fills an empty folder with files. What it raises is raised here, and leaves no folder behind.

    Raises:
        OSError: temporary files cannot be written or locked.
        InputError: the folder for them is not this user's alone.
    """
    root = private_folder() / "made"
    root.mkdir(mode=0o700, exist_ok=True)
    _remove_unused(root, name)
    folder = root / name
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        if (lock := _locked(folder, fcntl.LOCK_SH)) is None:
            continue
        if (folder / COMPLETE).exists():
            (folder / COMPLETE).touch()
            _locks.append(lock)
            return folder
        os.close(lock)
        if (lock := _locked(folder, fcntl.LOCK_EX)) is not None:
            try:
                _fill(folder, make)
            finally:
                os.close(lock)


def _fill(folder: Path, make: Callable[[Path], None]) -> None:
    """Fills a locked folder, unless somebody has done so before the lock was had."""
    if (folder / COMPLETE).exists():
        return
    for left in folder.iterdir():  # by one that died
        left.unlink()
    try:
        make(folder)
        for made in [*folder.iterdir(), folder]:  # a power cut must not keep the mark and lose what it stands for
            _sync(made)
        (folder / COMPLETE).touch()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(folder: Path, kind: int) -> int | None:
    """Descriptor of a folder with a lock of this kind; None if the folder was removed before the lock was had.

    Raises:
        BlockingIOError: `kind` says not to wait, and somebody else has it.
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
    """Removes what nobody reads and was not opened for long."""
    for folder in root.iterdir():
        with contextlib.suppress(OSError):  # somebody reads it, or removes it too
            if folder.name == wanted or (lock := _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)) is None:
                continue
            try:
                used = folder / COMPLETE if (folder / COMPLETE).exists() else folder
                if time.time() - used.stat().st_mtime > UNUSED_S:
                    shutil.rmtree(folder)
            finally:
                os.close(lock)
