"""The right to work on a folder, which one process of all machines has at a time.

It is a lock of the file system (flock) on a file. The kernel, or the server of a shared file system, gives it back when
its process dies, however it dies. So no clock is needed to tell an owner that died from one that is slow.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

POLL_S = 0.5
_HELD = (errno.EWOULDBLOCK, errno.EACCES)  # another process has it
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def owned(
    file: Path, *, wait_s: float | None = None, on_wait: Callable[[str], None] = lambda owner: None
) -> Iterator[None]:
    """A context in which this process owns what `file` stands for. It waits for another owner to end.

    Args:
        file: is created, and stays; it names the owner.
        wait_s: longest wait; None waits for ever.
        on_wait: is told once who the owner is ("process 4711 on node7"), if there is one.

    Raises:
        TimeoutError: another process has had it for all of `wait_s`; the text says which one.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as stream:  # servers of shared file systems want it open for writing
        _acquire(stream, wait_s, on_wait)
        stream.truncate(0)
        stream.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        stream.flush()
        yield  # closing the file gives the lock back


def _acquire(stream: IO[str], wait_s: float | None, on_wait: Callable[[str], None]) -> None:
    limit = None if wait_s is None else time.monotonic() + wait_s
    told = False
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in _HELD:
                _log.warning(
                    "%s: this file system has no locks (%s), so two processes that work on one folder are not noticed",
                    stream.name, error.strerror,
                )  # fmt: skip
                return
        if limit is not None and time.monotonic() >= limit:
            raise TimeoutError(_owner(stream))
        if not told:
            on_wait(_owner(stream))
            told = True
        time.sleep(POLL_S)


def _owner(stream: IO[str]) -> str:
    """Who has it, in words."""
    stream.seek(0)
    try:
        owner = json.loads(stream.read())
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
