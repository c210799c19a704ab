"""What carries news from the ranks to the driver. A module of its own, so that its process needs no torch."""

from __future__ import annotations

from typing import Any


class Mailbox:
    """Carries metrics from rank 0 to the driver, and how training ended on any rank."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []
        self._outcome: tuple[str, Any] | None = None
        self._ended = 0

    def put(self, record: dict[str, Any]) -> None:
        """Takes a line of metrics.jsonl."""
        self._records.append(record)

    def drain(self) -> list[dict[str, Any]]:
        """Gives what was put since the last time."""
        records, self._records = self._records, []
        return records

    def finish(self, kind: str, value: Any) -> None:
        """Takes a rank's end: "done" and the record of the training, or the name of an error and its message.

        The first counts: what other ranks say after it may only be its consequence.
        """
        self._outcome = self._outcome or (kind, value)
        self._ended += 1

    def ended(self) -> int:
        """How many ranks have told their end."""
        return self._ended

    def outcome(self) -> tuple[str, Any] | None:
        """How it ended; None while it has not."""
        return self._outcome
