"""The most minutes that the measurements may take: a part that is at work when they end is cut off."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SPARE_S = 5.0  # for the report, before the process is ended from outside of Python


@contextmanager
def time_limit(seconds: float, cut_off: Callable[[str], None]) -> Iterator[None]:
    """Ends the process with code 1 if what is inside takes longer.

    Five seconds (`SPARE_S`) before the limit, a thread calls `cut_off` with the stack of the main thread, so that what
    was found is kept. Code that hangs and never lets Python run, such as a driver's, is ended at the limit all the
    same, but then this part's findings are lost.

    Args:
        seconds: the limit, from now; less than `SPARE_S` counts as that.
        cut_off: writes what was found so far.
    """
    main = threading.main_thread().ident

    def end() -> None:
        try:
            frame = sys._current_frames().get(main or 0)
            cut_off("".join(traceback.format_stack(frame)) if frame else "the main thread has ended")
        finally:
            sys.stdout.flush()
            os._exit(1)

    timer = threading.Timer(max(seconds - SPARE_S, 0.0), end)
    timer.daemon = True
    timer.start()
    faulthandler.dump_traceback_later(max(seconds, SPARE_S), exit=True)
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()
