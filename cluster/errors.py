"""Errors that end a command with one clear message. Anything else that escapes is a bug and shows its traceback."""

from __future__ import annotations


class ListwiseError(Exception):
    """A message for a person: what went wrong, where, what was expected, what to do."""

    exit_code = 1


class InputError(ListwiseError):
    """Bad usage or bad input: a recipe key, a file, a line, a model name."""

    exit_code = 2


class RunError(ListwiseError):
    """The run itself failed: too many rejects, a resource that never came, a worker that cannot start."""

    exit_code = 1
