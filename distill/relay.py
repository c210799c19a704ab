"""What carries news from the ranks to the driver. A module of its own, so that its process needs no torch."""

from __future__ import annotations

from typing import Any


class Relay:
    """Carries metrics from rank 0 to the driver, and how training ended."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []
        self._outcome: tuple[str, Any] | None = None

    def put(self, record: dict[str, Any]) -> None:
        """Takes a line of metrics.jsonl."""
        self._records.append(record)

    def drain(self) -> list[dict[str, Any]]:
        """Gives what was put since the last time."""
        records, self._records = self._records, []
        return records

    def finish(self, kind: str, value: Any) -> None:
        """Takes the end: "done" and the record of the training, or the name of an error and its message."""
        self._outcome = (kind, value)

    def outcome(self) -> tuple[str, Any] | None:
        """How it ended; None while it has not."""
        return self._outcome
