"""The matrix of BM25: what each token adds to the score of each passage that has it, built in bounded memory.

Tokens are counted in segments of passages, and segments wait on the disk. How much a token is worth is known when all
passages were read. Then the segments are written into the columns of the matrix, whose places are known from the
counts. So memory holds one segment and a few numbers for each passage and each token, whatever the corpus.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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


class Segments:
    """Segments that wait until all passages are counted, each (3, entries) int32: tokens, passages, and how often.

    Args:
        folder: where they wait; None keeps them in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._waiting: list[np.ndarray | Path] = []

    def add(self, segment: np.ndarray) -> None:
        """Keeps a segment."""
        if self._folder is None:
            self._waiting.append(segment)
            return
        path = self._folder / f"segment-{len(self._waiting)}.npy"
        np.save(path, segment)
        self._waiting.append(path)

    def __iter__(self) -> Iterator[np.ndarray]:
        """All segments, in their order; each is forgotten afterwards."""
        while self._waiting:
            one = self._waiting.pop(0)
            if isinstance(one, Path):
                yield np.asarray(open_memmap(one, "r"))
                one.unlink()
            else:
                yield one


def build_matrix(passages: Iterable[Sequence[int]], folder: Path | None = None) -> Matrix:
    """Builds the matrix, whose values are the terms of BM25's sum.

    That of token t and passage d is `ln(1 + (N - df_t + 0.5) / (df_t + 0.5)) * tf / (tf + k1 * (1 - b + b * |d| /
    avgdl))`: Kamphuis et al., "Which BM25 Do You Mean?", ECIR 2020, "Lucene (accurate)".

    Args:
        passages: token ids of each passage. An id that is new is the number of ids before it.
        folder: where the matrix is written and segments wait; None keeps both in memory.

    Raises:
        OSError: the folder's disk is too small.
    """
    segments = Segments(folder)
    lengths, frequencies = _count(passages, segments)
    starts = np.concatenate([[0], np.cumsum(frequencies)]).astype(np.int64)
    entries, count = int(starts[-1]), len(lengths)
    if folder is None:
        values, owners = np.empty(entries, np.float32), np.empty(entries, np.int32)
    else:
        values, owners = (_mapped(folder / VALUES, np.float32, entries), _mapped(folder / OWNERS, np.int32, entries))
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


def _mapped(path: Path, kind: type[np.generic], count: int) -> np.ndarray:
    """A (count,) array in a new file whose place on the disk is taken.

    Without that, a disk that is full later would end the process in the middle of an assignment.
    """
    array = open_memmap(path, "w+", np.dtype(kind), (count,))
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _count(passages: Iterable[Sequence[int]], segments: Segments) -> tuple[np.ndarray, np.ndarray]:
    """(passages,) tokens of each passage, and (tokens,) passages that have each token; counts go to `segments`."""
    lengths = [np.zeros(0, np.int32)]
    frequencies = np.zeros(0, np.int64)
    before = 0
    for some in _groups(passages):
        segment, own = _segment(some, before)
        seen = np.bincount(segment[0], minlength=len(frequencies))
        seen[: len(frequencies)] += frequencies
        frequencies, before = seen, before + len(some)
        segments.add(segment)
        lengths.append(own)
    return np.concatenate(lengths), frequencies


def _groups(passages: Iterable[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """The passages of each segment."""
    group: list[Sequence[int]] = []
    size = 0
    for passage in passages:
        group.append(passage)
        size += len(passage)
        if size >= SEGMENT_TOKENS:
            yield group
            group, size = [], 0
    if group:
        yield group


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
