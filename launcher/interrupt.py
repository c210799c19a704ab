"""Ctrl-C that is never lost.

Python drops a KeyboardInterrupt that is raised inside a finaliser or a callback from C, and Ray runs many of both. So
the request is also remembered, and looked up wherever stopping is safe.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupts:
    """While entered, remembers that Ctrl-C was pressed. Does nothing outside of the main thread."""

    def __init__(self) -> None:
        self._requested = False
        self._before: signal.Handlers | object = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            if self._before is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raises KeyboardInterrupt if Ctrl-C was pressed since entering and something swallowed it."""
        if self._requested:
            raise KeyboardInterrupt
