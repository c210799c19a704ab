"""What an engine of vLLM wrote about its own end: the error that ends a process of it does not reach ours."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

# "(EngineCore pid=7) ERROR 11-30 12:59:42 [core.py:1510] ValueError: …", or the same without vLLM's beginning
_ERROR = re.compile(r"(?:\(\S+ pid=\d+\) )?(?:ERROR [^\]]*\] )?((?:\w+\.)*\w+(?:Error|Exception): \S.*)")
_LONGEST = 400  # characters of an error
_MOST_BYTES = 1 << 20
_MISSING_KERNEL = "'_C' object has no attribute"


class EngineLog:
    """Standard output and standard error of this process from now on, where they are files, as in a worker of Ray.

    The processes of an engine write there, too.
    """

    def __init__(self) -> None:
        self._starts = {descriptor: size for descriptor in (1, 2) if (size := _size(descriptor)) is not None}

    def cause(self) -> str | None:
        """The first error that was written since, as `Type: text`; later ones follow from it. None: there is none."""
        for descriptor, start in self._starts.items():
            for line in _text(descriptor, start).splitlines():
                if found := _ERROR.fullmatch(line.rstrip()):
                    return found[1][:_LONGEST]
        return None


def explain(cause: str, advice: str) -> str:
    """An engine's error as sentences, with what to do about it.

    Args:
        cause: the error.
        advice: what to do if memory is too small, which is what most errors that say nothing clear come from.
    """
    text = f"{cause.rstrip('.')}."
    if _MISSING_KERNEL in cause:
        return (
            f"{text} This vLLM has no such kernel for this processor: on CPUs, weights of four bits need AVX-512. Take "
            "the plain model, or weights of eight bits."
        )
    return f"{text} {advice}"


def _size(descriptor: int) -> int | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _text(descriptor: int, start: int) -> str:
    try:
        with Path(f"/proc/self/fd/{descriptor}").open("rb") as file:
            file.seek(start)
            return file.read(_MOST_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""
