"""A batch that runs out of memory is tried again with half of its size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def halved_until_it_fits(attempt: Callable[[int], Result], size: int, alone: int = 1) -> tuple[Result, int]:
    """The result of an attempt, and the size with which it succeeded.

    accelerate's `find_executable_batch_size` does the same, but it collects garbage and empties the device's cache
    before every call, where nothing has run out: 0.3 s in a process that has loaded torch and transformers. Here that
    is done after an attempt that failed.

    Args:
        attempt: is called with the size.
        size: of the first attempt.
        alone: size of the largest sequence. With this or less no batch is larger than it, so halving gains nothing.

    Raises:
        RuntimeError: memory runs out for one sequence alone.
    """
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    while True:
        try:
            return attempt(size), size
        except Exception as error:
            if not should_reduce_batch_size(error):
                raise
            if size <= alone:
                raise RuntimeError("one sequence alone runs out of memory") from error
        clear_device_cache(garbage_collection=True)
        size //= 2
