"""How a command ends: with one message for an error, or, when it is told to stop, with how to continue."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys

SHOW_CURSOR = "\x1b[?25h"  # a progress bar may have hidden it

_how_to_continue = ""


def continues_with(command: list[str] | None) -> None:
    """From now on an interrupted command has done something that is kept; None: a job, which is submitted again."""
    global _how_to_continue  # noqa: PLW0603, one command runs in a process
    # The folder of a job is not the folder that the user works in, so the command would not work there.
    how = f"continue with: {shlex.join(['listwise', *command])}" if command else "submit the recipe again to continue."
    _how_to_continue = f" What is done is kept; {how}"


def show(error: Exception) -> None:
    """Prints an error of the user or of Ray as one message; raises any other."""
    from cluster.errors import ListwiseError
    from cluster.machines.ray_errors import explain
    from launcher.streams import drop_output, is_output_lost

    if isinstance(error, OSError) and is_output_lost():
        drop_output(error)
        return
    message = str(error) if isinstance(error, ListwiseError) else explain(error)
    if message is None:
        raise error
    _print_error(message)


def _print_error(message: str) -> None:
    from rich.console import Console

    text = Console(stderr=True, soft_wrap=True, highlight=False)
    text.print("[bold red]error:[/] ", end="")
    text.print(message, markup=False)


def say_farewell() -> None:
    """Says that the command was interrupted, and how to continue, if that can be said."""
    with contextlib.suppress(OSError, ValueError):  # the terminal may have been closed
        sys.stderr.write(f"{SHOW_CURSOR if sys.stderr.isatty() else ''}\nInterrupted.{_how_to_continue}\n")
        sys.stderr.flush()


def give_up(exit_code: int) -> None:
    """Ends this process, whatever its threads are waiting for."""
    say_farewell()
    os._exit(exit_code)


def end_at_once_on_signals() -> None:
    """From now on a signal ends this process at once; for its last moments, when nothing is left to be saved."""
    from launcher.interrupt import DEFAULT_HANDLERS, SIGNALS

    for number in SIGNALS:
        if signal.getsignal(number) in DEFAULT_HANDLERS:
            signal.signal(number, lambda number, _: give_up(128 + number))
