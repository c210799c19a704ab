"""The command `listwise`, as it is until all that it needs is imported."""

from __future__ import annotations

import sys

from listwise.packages import ours


def main() -> None:
    """Runs the command, unless another package hides one that it needs; ends the process with an exit code."""
    try:
        with ours():
            from launcher.interrupt import Interrupts

            with Interrupts():
                from launcher.cli import main as run_command
    except ImportError as error:
        if error.name is not None:  # a library is absent or broken
            raise
        _end(f"error: {error}", 2)
    except KeyboardInterrupt as stop:
        _end("\nInterrupted.", getattr(stop, "exit_code", 130))
    run_command()


def _end(message: str, exit_code: int) -> None:
    sys.stderr.write(f"{message}\n")
    sys.exit(exit_code)
