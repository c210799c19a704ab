"""The command `listwise`."""

from __future__ import annotations

import sys

from listwise.packages import ours


def main() -> None:
    """Runs the command, unless another package hides one that it needs; ends the process with an exit code."""
    try:
        with ours():
            from launcher.cli import main as run_command
    except ImportError as error:
        sys.exit(_refusal(error))
    run_command()


def _refusal(error: ImportError) -> int:
    if error.name is not None:  # a package that Listwise needs is absent or broken
        raise error
    sys.stderr.write(f"error: {error}\n")
    return 2
