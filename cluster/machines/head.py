"""Watches that the head of the Ray cluster lives. Without it no worker can be started, and calls to Ray wait in C++.

Ray ends the process after a minute by itself, in words of its own. So a thread ends it earlier, in ours; nothing is
lost by that, since storage holds the truth and dying at any point is safe (`cluster/tables/table.py`).
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

EVERY_S = 1.0


def watch(address: str, limit_s: float) -> threading.Event:
    """Ends this process with exit code 1 once nothing has listened at `address` for `limit_s` seconds.

    Args:
        address: "host:port" of Ray's control service (GCS).
        limit_s: under 60 s, or Ray is quicker.

    Returns:
        Set it to end the watch.
    """
    ended = threading.Event()
    threading.Thread(target=_watch, args=(address, limit_s, ended), name="head", daemon=True).start()
    return ended


def _watch(address: str, limit_s: float, ended: threading.Event) -> None:
    seen = time.monotonic()
    while not ended.wait(EVERY_S):
        if listens(address):
            seen = time.monotonic()
        elif (silent := time.monotonic() - seen) > limit_s and not ended.is_set():
            show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar may have hidden it
            sys.stderr.write(
                f"{show_cursor}\nerror: the head of the Ray cluster at {address} has not answered for {silent:.0f} s. "
                "What is committed is kept: start the cluster again, or name another one in cluster.address, and the "
                "same command continues.\n"
            )
            sys.stderr.flush()
            os._exit(1)


def listens(address: str) -> bool:
    """Whether something takes connections at "host:port"."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=EVERY_S).close()
    except OSError:
        return False
    return True
