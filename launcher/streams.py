"""Standard output and standard error as a shell gives them: closed, full, or in an encoding that lacks characters."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable

LEAST_COLUMNS = 20
BROKEN_PIPE = 128 + signal.SIGPIPE  # the exit code of programs that a reader such as `head` has left


def show_any_text() -> None:
    """Prepares the streams for every text.

    Characters that the encoding of a stream lacks are shown as question marks. A closed stream takes everything. A
    width of the terminal that holds no line counts as unknown.
    """
    columns = os.environ.get("COLUMNS", "")
    if columns and (not columns.isdigit() or int(columns) < LEAST_COLUMNS):
        del os.environ["COLUMNS"]
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123, as long as the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def finish_output(exit_code: int) -> int:
    """Writes what is left of standard output; returns the exit code that the command then has."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return exit_code or drop_output(error)
    return exit_code


def while_it_is_read(say: Callable[[str], None], line: str) -> None:
    """Says a line that is also in a file. Who says it goes on where nobody reads it any more: a terminal was closed."""
    try:
        say(line)
    except OSError as error:
        drop_output(error)


def is_output_lost() -> bool:
    """Whether standard output takes no more."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        return True
    return False


def drop_output(error: OSError) -> int:
    """Nothing more is written to standard output; says why, unless its reader has just left. Returns an exit code."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(nothing, sys.stdout.fileno())  # Python flushes once more at its end
    if error.errno == errno.EPIPE:
        return BROKEN_PIPE
    with contextlib.suppress(OSError):
        sys.stderr.write(f"error: standard output cannot be written: {error.strerror}\n")
    return 1
