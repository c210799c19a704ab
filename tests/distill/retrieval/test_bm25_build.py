"""The matrix of BM25 against its formula, built in one segment and in many, in memory and on the disk."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.retrieval import bm25_build
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
