"""A watch on the head of the Ray cluster. Without a head no worker can start, and calls to Ray block in C++ code.

After a minute without a head, Ray ends the process with a message that says nothing of listwise. So a thread ends the
process earlier, with a message of our own. Nothing committed is lost: a run may die at any point
(`cluster/tables/table.py`).
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

EVERY_S = 1.0

_watched: dict[threading.Event, str] = {}  # addresses of the heads, by the event that ends the watch


def watch_head(address: str, limit_s: float) -> threading.Event:
    """A thread that ends this process with exit code 1 when nothing has listened at `address` for `limit_s` seconds.

    Args:
        address: "host:port" of Ray's control service (GCS).
        limit_s: must be under 60 s; after 60 s Ray ends the process itself.

    Returns:
        An event; set it to end the watch.
    """
    stop = threading.Event()
    _watched[stop] = address
    threading.Thread(target=_watch, args=(address, limit_s, stop), name="head", daemon=True).start()
    return stop


def _watch(address: str, limit_s: float, stop: threading.Event) -> None:
    last_answer = time.monotonic()
    while not stop.wait(EVERY_S):
        if listens(address):
            last_answer = time.monotonic()
        elif (silent := time.monotonic() - last_answer) > limit_s and not stop.is_set():
            show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar may have hidden it
            sys.stderr.write(
                f"{show_cursor}\nerror: the head of the Ray cluster at {address} has not answered for {silent:.0f} s. "
                "Committed work is kept: start the cluster again, or name another one in cluster.address, and the "
                "same command continues.\n"
            )
            sys.stderr.flush()
            os._exit(1)
    del _watched[stop]


def is_silent() -> bool:
    """Whether a head is watched that does not answer now."""
    return any(not stop.is_set() and not listens(address) for stop, address in list(_watched.items()))


def listens(address: str) -> bool:
    """Whether a program accepts connections at "host:port"."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=EVERY_S).close()
    except OSError:
        return False
    return True
