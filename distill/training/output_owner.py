"""One training at a time writes to an output folder: rank 0 owns it, whoever started the ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from cluster.errors import InputError
from cluster.files.ownership import owned
from distill.collectives import run_on_rank_0

LOCK = "owner.lock"
WAIT_S = 60.0  # a rank 0 that is replaced may need so long to die


@contextlib.contextmanager
def own(output: Path) -> Iterator[None]:
    """A context in which no other training writes to `output`; every rank calls it.

    Raises:
        InputError: another training has been writing to it for `WAIT_S`; on every rank.
    """
    with contextlib.ExitStack() as held:

        def enter() -> None:
            try:
                held.enter_context(owned(output / LOCK, wait_s=WAIT_S))
            except TimeoutError as owner:
                raise InputError(
                    f"{output}: another training writes there ({owner} is its rank 0). Wait for its end or stop it, or "
                    "train into another folder."
                ) from None

        run_on_rank_0(enter)
        yield
