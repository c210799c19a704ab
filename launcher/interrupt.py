"""A request to stop, by Ctrl-C or a signal, that is never lost.

Python drops an exception that is raised inside a finaliser or a callback from C, and Ray runs many of both. So the
request is also remembered, and looked up wherever stopping is safe. SIGTERM and SIGUSR1, which schedulers send before
they kill, stop a run in the same order as Ctrl-C.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
OF_PYTHON = (signal.default_int_handler, signal.SIG_DFL)  # whoever has set another handler keeps it


class Interrupted(KeyboardInterrupt):
    """A signal asks this process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Interrupts:
    """While entered, remembers that a signal asked to stop. Does nothing outside of the main thread."""

    def __init__(self) -> None:
        self._requested: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: before for each in SIGNALS if (before := signal.getsignal(each)) in OF_PYTHON}
            for each in self._before:
                signal.signal(each, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, before in self._before.items():
            signal.signal(each, before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._requested = number
        raise Interrupted(number)

    def check(self) -> None:
        """Raises `Interrupted` if a signal came since entering and something swallowed it."""
        if self._requested is not None:
            raise Interrupted(self._requested)
