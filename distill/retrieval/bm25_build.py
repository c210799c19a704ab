"""The matrix of BM25: what each token adds to the score of each passage that has it, built in bounded memory.

Tokens are counted in segments of passages, and segments wait on the disk. How much a token is worth is known when all
passages were read. Then the segments are written into the columns of the matrix, whose places are known from the
counts. So memory holds one segment and a few numbers for each passage and each token, whatever the corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.lib.format import open_memmap  # unlike np.load, it reads no pickle

K1 = 1.5
B = 0.75
SEGMENT_TOKENS = 4_000_000  # read before a segment is counted: some 200 MB of numbers
VALUES, OWNERS, STARTS = "values.npy", "owners.npy", "starts.npy"


@dataclass(frozen=True)
class Matrix:
    """A sparse matrix with a row for each passage and a column for each token.

    Attributes:
        values: `(entries,) float32`, column after column.
        owners: `(entries,) int32`, the passage of each value; ascending within a column.
        starts: `(tokens + 1,) int64`, where each column begins.
        passages: rows of the matrix.
    """

    values: np.ndarray
    owners: np.ndarray
    starts: np.ndarray
    passages: int


class Segments(Protocol):
    """Where segments wait."""

    def add(self, segment: np.ndarray) -> None:
        """Keeps a segment, (3, entries) int32: tokens, passages, and how often."""
        ...

    def __iter__(self) -> Iterator[np.ndarray]:
        """All segments, in their order; each is forgotten afterwards."""
        ...


class InMemory:
    """Segments of a process that cannot write temporary files."""

    def __init__(self) -> None:
        self._segments: list[np.ndarray] = []

    def add(self, segment: np.ndarray) -> None:
        """Keeps a segment."""
        self._segments.append(segment)

    def __iter__(self) -> Iterator[np.ndarray]:
        """All segments."""
        while self._segments:
            yield self._segments.pop(0)


class OnDisk:
    """Segments as files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, list[Path]()

    def add(self, segment: np.ndarray) -> None:
        """Writes a segment."""
        self._files.append(self._folder / f"segment-{len(self._files)}.npy")
        np.save(self._files[-1], segment)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Reads one segment after the other."""
        while self._files:
            yield np.asarray(open_memmap(self._files[0], "r"))
            self._files.pop(0).unlink()


def build_matrix(passages: Iterable[Sequence[int]], folder: Path | None = None) -> Matrix:
    """Builds the matrix, whose values are the terms of BM25's sum.

    That of token t and passage d is `ln(1 + (N - df_t + 0.5) / (df_t + 0.5)) * tf / (tf + k1 * (1 - b + b * |d| /
    avgdl))`: Kamphuis et al., "Which BM25 Do You Mean?", ECIR 2020, "Lucene (accurate)".

    Args:
        passages: token ids of each passage. An id that is new is the number of ids before it.
        folder: where the matrix is written and segments wait; None keeps both in memory.
    """
    segments: Segments = InMemory() if folder is None else OnDisk(folder)
    lengths, frequencies = _count(passages, segments)
    starts = np.concatenate([[0], np.cumsum(frequencies)]).astype(np.int64)
    entries, count = int(starts[-1]), len(lengths)
    if folder is None:
        values, owners = np.empty(entries, np.float32), np.empty(entries, np.int32)
    else:
        values = open_memmap(folder / VALUES, "w+", np.dtype(np.float32), (entries,))
        owners = open_memmap(folder / OWNERS, "w+", np.dtype(np.int32), (entries,))
        np.save(folder / STARTS, starts)
    worth = np.log1p((count - frequencies + 0.5) / (frequencies + 0.5))
    damping = K1 * (1 - B + B * lengths / max(lengths.mean() if count else 0.0, 1e-9))
    free = starts[:-1].copy()  # the next place of each column
    for tokens, rows, times in segments:
        firsts = np.flatnonzero(np.diff(tokens, prepend=-1))
        own, runs = tokens[firsts], np.diff(firsts, append=len(tokens))
        places = np.arange(len(tokens)) + np.repeat(free[own] - firsts, runs)
        values[places] = worth[tokens] * times / (times + damping[rows])
        owners[places] = rows
        free[own] += runs
    return Matrix(values, owners, starts, count)


def load_matrix(folder: Path, passages: int) -> Matrix:
    """Maps the matrix of a folder into memory, so that pages are read when a search needs them."""
    values, owners, starts = (open_memmap(folder / name, "r") for name in (VALUES, OWNERS, STARTS))
    return Matrix(values, owners, starts, passages)


def _count(passages: Iterable[Sequence[int]], segments: Segments) -> tuple[np.ndarray, np.ndarray]:
    """(passages,) tokens of each passage, and (tokens,) passages that have each token; counts go to `segments`."""
    lengths: list[np.ndarray] = []
    frequencies = np.zeros(0, np.int64)
    waiting: list[Sequence[int]] = []
    size = before = 0

    def close() -> None:
        nonlocal frequencies, size, before
        segment, own = _segment(waiting, before)
        seen = np.bincount(segment[0], minlength=len(frequencies))
        seen[: len(frequencies)] += frequencies
        frequencies, before, size = seen, before + len(waiting), 0
        segments.add(segment)
        lengths.append(own)
        waiting.clear()

    for passage in passages:
        waiting.append(passage)
        size += len(passage)
        if size >= SEGMENT_TOKENS:
            close()
    if waiting:
        close()
    return np.concatenate([np.zeros(0, np.int32), *lengths]), frequencies


def _segment(passages: Sequence[Sequence[int]], before: int) -> tuple[np.ndarray, np.ndarray]:
    """(3, entries) int32 tokens, passages and how often, by token and then passage; and (passages,) int32 lengths.

    Args:
        passages: token ids of each.
        before: number of passages before them.
    """
    lengths = np.fromiter(map(len, passages), np.int32, len(passages))
    tokens = np.fromiter((token for passage in passages for token in passage), np.int64, int(lengths.sum()))
    keys = tokens * len(passages) + np.repeat(np.arange(len(passages)), lengths)
    keys.sort()
    firsts = np.flatnonzero(np.diff(keys, prepend=-1))
    times = np.diff(firsts, append=len(keys))
    tokens, rows = np.divmod(keys[firsts], max(len(passages), 1))
    return np.stack([tokens, rows + before, times]).astype(np.int32), lengths
