"""Errors that end a run with one clear message. Anything else that escapes is a bug and shows its traceback."""

from __future__ import annotations

from cluster.disclosure import disclose


class ListwiseError(Exception):
    """Base of the errors that are shown without a traceback; as text they hold no secret and no terminal control."""

    exit_code = 1

    def __str__(self) -> str:
        return disclose(super().__str__())


class InputError(ListwiseError):
    """Something a person can put right: what is wrong, where, what was expected, what to do."""

    exit_code = 2


class RunError(ListwiseError):
    """A run that failed although its input was right: a lost resource, a time limit, too many rejects."""


class DamagedError(RunError):
    """A committed data file that is missing or no longer has the content it was committed with."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(path, found)
        self.path = path
        self.found = found

    def __str__(self) -> str:
        return disclose(f"{self.path} is damaged: {self.found}. Run again: its shard is done again.")
