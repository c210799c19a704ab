"""A training that is asked to stop finishes its step and leaves a checkpoint.

A signal asks ranks of torchrun and srun. Ranks that Ray placed get no signal: the driver writes a file, and rank 0
looks for it. The rank that is asked tells the others with the sums that a step logs, so that all stop after the same
step.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from cluster.errors import RunError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)  # SIGHUP: the terminal of torchrun is closed


class TrainingStopped(RunError):  # noqa: N818, it is no failure
    """Training was asked to stop, and its checkpoint is written. The exit code is that of a process SIGTERM ended."""

    exit_code = 128 + signal.SIGTERM


class StopRequest:
    """Whether this rank is asked to stop; catches the signals while entered, in the main thread.

    Args:
        folder: of the training; a file `stop` in it asks too, and is removed on leaving.
        rank: only rank 0 looks for the file.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._file = stop_file(folder) if rank == 0 else None
        self._signalled = False
        self._before: dict[signal.Signals, Any] = {}

    def asked(self) -> bool:
        """Whether a signal came or the file is there."""
        return self._signalled or (self._file is not None and self._file.exists())

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._file is not None:
            self._file.unlink(missing_ok=True)  # the training that continues shall not stop again

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True


def stop_file(folder: Path) -> Path:
    """The file that asks the ranks of a training in `folder` to stop."""
    return folder / "stop"
