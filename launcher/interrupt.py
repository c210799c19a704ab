"""Requests to stop, by Ctrl-C or a signal, that are never lost.

Ctrl-C, a closed terminal (SIGHUP), and the signals of schedulers, `timeout`, systemd and Docker (SIGTERM, SIGUSR1) all
stop a command in the same way: an exception in the main thread, once. Three things can keep it from doing so, and a
thread takes care of each. Python drops an exception that is raised inside a finaliser or a callback from C: it is
raised again. Whoever sends a signal may send it twice: what comes at the same moment is one request. And where Ray got
the signal too and has ended, calls to Ray never return: the process then ends at once. Nothing committed is lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
DEFAULT_HANDLERS = (signal.default_int_handler, signal.SIG_DFL)  # any other handler stays in place, as that of nohup
ONE_REQUEST_S = 2.0  # signals that come within it are one request; a later one ends what the first began to wait for
LOOK_S = 0.5  # between two looks of the thread
SILENT_LOOKS = 3  # of a head that does not answer, after which it counts as ended
DEAF_S = 5.0  # without the exception being raised, after which the main thread counts as stuck in C code


class Interrupted(KeyboardInterrupt):
    """A signal has asked this process to stop; `exit_code` is 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Interrupts:
    """A context that turns signals into `Interrupted`; one inside another shares its request.

    It does nothing outside of the main thread.

    Args:
        give_up: ends the process with an exit code when nothing else is possible; None: the process is never ended so.
    """

    _holder: Interrupts | None = None  # the context that has set the handlers

    def __init__(self, give_up: Callable[[int], None] | None = None) -> None:
        self._give_up = give_up
        self._requested: int | None = None
        self._raised_at = 0.0
        self._raised: weakref.ref[Interrupted] | None = None  # dead once nobody handles the exception any more
        self._previous: dict[signal.Signals, Any] = {}  # the handlers that this context replaces
        self._over = threading.Event()
        self._wakeup = (-1, -1, -1)  # what the thread reads, what signals write, what they wrote to before

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread() and Interrupts._holder is None:
            Interrupts._holder = self
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self._previous = {number: handler for number, handler in handlers.items() if handler in DEFAULT_HANDLERS}
            self._watch()
            for number in self._previous:
                signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if Interrupts._holder is not self:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._over.set()
        _, written, before = self._wakeup
        signal.set_wakeup_fd(before)
        os.close(written)  # the thread reads the end of it
        Interrupts._holder = None

    @property
    def exit_code(self) -> int | None:
        """128 + the number of the signal that has asked to stop since the context was entered; None: none has."""
        requested = (Interrupts._holder or self)._requested
        return None if requested is None else 128 + requested

    def check(self) -> None:
        """Raises `Interrupted` if a signal has asked to stop since the context was entered."""
        if self.exit_code is not None:
            raise Interrupted(self.exit_code - 128)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._requested is None:
            self._requested = number
        now = time.monotonic()
        if self._raised_at and now - self._raised_at < ONE_REQUEST_S and not self._is_lost():
            return
        self._raised_at = now
        error = Interrupted(self._requested)
        self._raised = weakref.ref(error)
        raise error

    def _is_lost(self) -> bool:
        return self._raised is not None and self._raised() is None

    # ---- the thread, which hears of a signal even where the main thread is inside of C code and runs no handler

    def _watch(self) -> None:
        read, written = os.pipe()
        os.set_blocking(written, False)
        self._wakeup = (read, written, signal.set_wakeup_fd(written, warn_on_full_buffer=False))
        threading.Thread(target=self._await_signal, name="interrupts", daemon=True).start()

    def _await_signal(self) -> None:
        read = self._wakeup[0]
        while heard := os.read(read, 64):
            numbers = [number for number in heard if number in self._previous]
            if numbers:
                self._follow(numbers[0])
                break
        os.close(read)

    def _follow(self, number: int) -> None:
        """Sees to it that the request is met: raises a lost exception again, and gives up where that cannot help."""
        from cluster.machines import head

        begun, silent = time.monotonic(), 0
        while not self._over.wait(LOOK_S) and signal.getsignal(number) == self._on_signal:
            silent = silent + 1 if head.is_silent() else 0
            is_deaf = not self._raised_at and time.monotonic() - begun > DEAF_S
            if self._give_up and (is_deaf or silent >= SILENT_LOOKS):
                self._give_up(128 + number)
            if self._is_lost():
                with contextlib.suppress(OSError):
                    signal.pthread_kill(threading.main_thread().ident or 0, number)
