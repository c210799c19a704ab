"""Requests to stop, by Ctrl-C or a signal, that are never lost.

Python drops an exception that is raised inside a finaliser or in a callback from C, and Ray runs many of both. So the
request is also stored, and the run checks it wherever stopping is safe. SIGTERM and SIGUSR1, which schedulers send
before they kill a process, stop a run in the same way as Ctrl-C.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
DEFAULT_HANDLERS = (signal.default_int_handler, signal.SIG_DFL)  # any other handler stays in place


class Interrupted(KeyboardInterrupt):
    """A signal has asked this process to stop; `exit_code` is 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Interrupts:
    """A context that stores a signal's request to stop. It does nothing outside of the main thread."""

    def __init__(self) -> None:
        self._requested: int | None = None
        self._previous: dict[signal.Signals, Any] = {}  # the handlers that this context replaces

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self._previous = {number: handler for number, handler in handlers.items() if handler in DEFAULT_HANDLERS}
            for number in self._previous:
                signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._requested = number
        raise Interrupted(number)

    def check(self) -> None:
        """Raises `Interrupted` if a signal has asked to stop since the context was entered."""
        if self._requested is not None:
            raise Interrupted(self._requested)
