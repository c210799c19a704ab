"""An arena: one piece of CPU memory for the outputs that the first runs of a step keep for the second runs.

Kept where they were computed, outputs lie between tensors that are freed, and glibc's heap grows to twice the size of
what is kept. Here they are copied, one after another, into pages that the process keeps from step to step. The pages
are huge where the system has huge pages: the first use of a page of 4 KiB costs a virtual machine up to 11 µs.
"""

from __future__ import annotations

import contextlib
import mmap

import torch

from cluster.errors import RunError

PAGE = 2**21  # bytes of a huge page
SPARE = 4  # part of its bytes that it has beside those it was asked for: steps differ a little
ALIGNED = 64  # bytes, for the processor's vectors


class Arena:
    """Copies of tensors, which are all dropped together."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._taken = 0

    @property
    def size(self) -> int:
        """Bytes that have room."""
        return self._memory.numel()

    def start(self, size: int) -> None:
        """Drops all copies, and makes room for `size` bytes if there is less.

        Raises:
            RunError: the system has not so much memory.
        """
        self._taken = 0
        if size > self.size:
            self.release()
            self._memory = _pages(size + size // SPARE)
            self._memory[:size].zero_()

    def hold(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of the same shape and strides; the tensor itself where there is no room, or where it has gaps.

        A copy has a version of its own, so that autograd does not take the next copy for a change of this one.
        """
        begin, bytes = self._taken, tensor.numel() * tensor.element_size()
        if begin + bytes > self.size or not bytes or not _dense(tensor):
            return tensor
        self._taken += -(-bytes // ALIGNED) * ALIGNED
        copy = torch.empty(0, dtype=tensor.dtype)
        place = begin // tensor.element_size()
        copy.set_(self._memory.untyped_storage(), place, tensor.shape, tensor.stride())
        return copy.copy_(tensor.detach())

    def release(self) -> None:
        """Gives the memory back, as soon as no copy in it is used."""
        self._memory, self._taken = torch.empty(0, dtype=torch.uint8), 0


def _dense(tensor: torch.Tensor) -> bool:
    return bool(torch.ops.aten.is_non_overlapping_and_dense(tensor))


def _pages(size: int) -> torch.Tensor:
    """(bytes,) uint8 of at least `size` bytes; the system gives a page when it is written to."""
    try:
        pages = mmap.mmap(-1, -(-size // PAGE) * PAGE)
    except OSError as error:
        raise RunError(
            f"{size / 2**30:.1f} GiB for activations cannot be had here ({error.strerror}). "
            "Lower training.activation_mib; less memory makes steps slower and changes nothing else."
        ) from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel that was built without
            pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)
