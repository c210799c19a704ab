"""Ids that occur twice in a file that is too long for a set of them: 28 bytes an id."""

from __future__ import annotations

import hashlib
from array import array

import numpy as np


class RepeatedIds:
    """Notes where ids stand, and finds one that stands twice. An id is kept as a digest of 128 bits."""

    def __init__(self) -> None:
        self._digests = array("Q")
        self._files = array("I")
        self._lines = array("Q")

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, name: str, line: int, file: int = 0) -> None:
        """Notes an id, and the number of its line and of its file."""
        self._digests.frombytes(hashlib.blake2b(name.encode(), digest_size=16).digest())
        self._files.append(file)
        self._lines.append(line)

    def first(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """File and line of the earliest id that stood somewhere before, and where that was; None: all ids differ."""
        if not len(self):
            return None
        digests = np.frombuffer(self._digests, np.uint64).reshape(-1, 2)
        order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable, so that equal ones stay in their order
        same = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
        if not same.any():
            return None
        later = int(order[1:][same].min())
        earlier = int(np.flatnonzero((digests == digests[later]).all(axis=1))[0])
        return (self._files[later], self._lines[later]), (self._files[earlier], self._lines[earlier])
