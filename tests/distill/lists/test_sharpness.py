"""Sharpness of the teachers' lists against the entropy of scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from cluster.schemas import LISTS
from distill.lists.sharpness import sampled_scores, sharpness, temperature_for, warning
from tests.tables import write_table


@pytest.mark.parametrize("temperature", [0.01, 0.3, 4.0])
def test_sharpness_is_scipys_entropy_as_a_share_of_the_uniform_ones(temperature: float):
    scores = np.random.default_rng(1).random((50, 20)).astype(np.float32)
    expected = entropy(softmax(scores.astype(np.float64) / temperature, axis=1), axis=1).mean() / np.log(20)
    assert sharpness(scores, temperature) == pytest.approx(expected, rel=1e-9)


def test_it_is_0_for_one_hot_lists_and_1_for_equal_scores():
    one_hot = np.eye(10)[:4]
    assert sharpness(one_hot, 1e-4) == pytest.approx(0.0, abs=1e-12)
    assert sharpness(np.full((3, 7), 0.4), 0.3) == pytest.approx(1.0)


def test_the_temperature_that_is_named_gives_what_is_wanted():
    scores = np.random.default_rng(2).random((200, 20)) ** 3
    for wanted in (0.1, 0.5, 0.9):
        found = temperature_for(scores, wanted)
        assert found is not None
        assert sharpness(scores, found) == pytest.approx(wanted, abs=0.01)
    assert temperature_for(np.full((3, 7), 0.4)) is None


def test_flat_and_saturated_lists_are_warned_of_with_a_temperature_and_others_are_not():
    scores = np.random.default_rng(3).random((200, 20))
    flat, saturated = warning(scores, 5.0), warning(scores, 1e-3)
    assert flat is not None and "are flat" in flat and "at training.teacher_temperature=5" in flat.lower()
    assert saturated is not None and "are saturated" in saturated
    better = temperature_for(scores)
    assert f"training.teacher_temperature={better:.2g} gives 0.5" in flat
    assert warning(scores, better) is None
    equal = warning(np.full((3, 7), 0.4), 0.3)
    assert equal is not None and "no temperature changes that" in equal


@pytest.mark.parametrize("count", [1, 90, 1999, 5000])
def test_the_sample_is_spread_over_the_lists_and_cut_to_the_length_of_training(count: int, tmp_path):
    rows = [
        {"query_id": f"q{n}", "query_type": "search", "text": "x", "passage_rows": [0, 1, 2],
         "scores": [n / 8192, 0.0, 0.0], "split": "train", "dev_rows": [], "dev_scores": []}
        for n in range(count)
    ]  # fmt: skip
    sample = sampled_scores(write_table(str(tmp_path), LISTS, "lists", rows), 2)
    assert sample.shape == (min(count, 2000), 2)
    numbers = (sample[:, 0] * 8192).astype(int)
    assert len(set(numbers.tolist())) == len(numbers)
    assert (numbers[0], numbers[-1]) == (0, count - 1)
