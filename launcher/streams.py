"""Standard output and standard error as a shell gives them: closed, full, or in an encoding that lacks characters."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys

BROKEN_PIPE = 128 + signal.SIGPIPE  # the exit code of programs that a reader such as `head` has left


def show_any_character() -> None:
    """Characters that the encoding of a stream lacks are shown as question marks; a closed stream takes everything."""
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
        nothing = os.open(os.devnull, os.O_WRONLY)
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nothing, sys.stdout.fileno())  # Python flushes once more at its end
        if error.errno == errno.EPIPE:
            return exit_code or BROKEN_PIPE
        with contextlib.suppress(OSError):
            sys.stderr.write(f"error: standard output cannot be written: {error.strerror}\n")
        return exit_code or 1
    return exit_code
