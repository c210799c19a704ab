"""The matrix of BM25 against its formula, built in one segment and in many, in memory and on the disk."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.retrieval import bm25_build
from distill.retrieval.bm25 import Bm25Index
from distill.retrieval.bm25_build import K1, B, Matrix, build_matrix, load_matrix

PASSAGES = st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=30)


def textbook(passages: list[list[int]], tokens: int) -> np.ndarray:
    """(passages, tokens) terms of the sum, one by one."""
    terms = np.zeros((len(passages), tokens))
    mean = sum(map(len, passages)) / max(len(passages), 1)
    for token in range(tokens):
        frequency = sum(token in passage for passage in passages)
        worth = math.log(1 + (len(passages) - frequency + 0.5) / (frequency + 0.5))
        for row, passage in enumerate(passages):
            if times := Counter(passage)[token]:
                terms[row, token] = worth * times / (times + K1 * (1 - B + B * len(passage) / mean))
    return terms


def dense(matrix: Matrix) -> np.ndarray:
    found = np.zeros((matrix.passages, len(matrix.starts) - 1))
    for token, (start, stop) in enumerate(zip(matrix.starts[:-1], matrix.starts[1:], strict=True)):
        owners = matrix.owners[start:stop]
        assert (np.diff(owners) > 0).all(), "ascending, each once"
        found[owners, token] = matrix.values[start:stop]
    return found


@settings(max_examples=150, deadline=None)
@given(passages=PASSAGES, segment=st.integers(1, 40))
def test_the_matrix_is_that_of_the_formula_however_it_is_cut_into_segments(passages, segment):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bm25_build, "SEGMENT_TOKENS", segment)
        matrix = build_matrix(passages)
    assert matrix.passages == len(passages)
    expected = textbook(passages, len(matrix.starts) - 1)
    np.testing.assert_allclose(dense(matrix), expected, rtol=1e-6)


def test_a_matrix_on_the_disk_is_the_one_in_memory_and_no_segment_stays(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(bm25_build, "SEGMENT_TOKENS", 50)
    generator = np.random.default_rng(0)
    passages = [generator.zipf(1.5, size) % 200 for size in generator.integers(0, 30, size=100)]
    in_memory = build_matrix(passages)
    for other in (build_matrix(passages, tmp_path), load_matrix(tmp_path, 100)):
        for name in ("values", "owners", "starts"):
            np.testing.assert_array_equal(getattr(other, name), getattr(in_memory, name))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["owners.npy", "starts.npy", "values.npy"]


def test_the_place_of_the_matrix_is_taken_before_it_is_mapped(tmp_path: Path, monkeypatch):
    """A page that finds no place on the disk would end the process; what asks for the place says so as an error."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    passages = [[number % 50, 50] for number in range(500)]
    matrix = build_matrix(passages, tmp_path)
    for name, array in (("values", matrix.values), ("owners", matrix.owners)):
        assert (tmp_path / f"{name}.npy").stat().st_blocks * 512 >= array.nbytes
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        build_matrix(passages, tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    index = Bm25Index.shared("full", lambda: [["a slate quarry", "a harbour"]])
    assert index.search(["quarry"], 1).rows.tolist() == [[0]], "each process then has an index of its own"
