"""When a checkpoint is due by time: after so many minutes of work, but seldom enough that it costs little."""

from __future__ import annotations

import time

MOST_COST = 0.02  # of the time of training


class CheckpointClock:
    """Measures the time since the last checkpoint; a context manager around each one.

    Args:
        minutes: of work after which a checkpoint is due; None: never by time.
    """

    def __init__(self, minutes: float | None) -> None:
        self._after_s = None if minutes is None else 60 * minutes
        self._last = self._begun = time.monotonic()
        self._cost_s = 0.0  # that the last one took from training

    def is_due(self) -> bool:
        """Whether the time has passed, and was long enough for what the last checkpoint took."""
        if self._after_s is None:
            return False
        return time.monotonic() - self._last >= max(self._after_s, self._cost_s / MOST_COST)

    def __enter__(self) -> CheckpointClock:
        self._begun = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._last = time.monotonic()
        self._cost_s = self._last - self._begun
