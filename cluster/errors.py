"""Errors that end a run with one clear message. Any other exception is a bug and is shown with its traceback."""

from __future__ import annotations

from cluster.disclosure import disclose


class ListwiseError(Exception):
    """Base of the errors that are shown without a traceback; their text holds no secrets and no control characters."""

    exit_code = 1

    def __str__(self) -> str:
        return disclose(super().__str__())


class InputError(ListwiseError):
    """An error that the user can correct. Its text says what is wrong, where, what was expected and what to do."""

    exit_code = 2


class RunError(ListwiseError):
    """A failure of a run whose input was right: a lost resource, a time limit, too many rejects."""


class DamagedError(RunError):
    """A committed data file that is missing or no longer has the content it was committed with.

    Args:
        path: the file, relative to the workdir.
        damage: a phrase that says what is wrong with it.
    """

    def __init__(self, path: str, damage: str) -> None:
        super().__init__(path, damage)
        self.path = path
        self.damage = damage

    def __str__(self) -> str:
        return disclose(f"{self.path} is damaged: {self.damage}. Run the same command again: it redoes the shard.")
