from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from distill.statistics import paired_difference, verdict


def test_p_and_interval_agree_with_the_paired_t_test():
    generator = np.random.default_rng(0)
    base = generator.uniform(size=1500)
    student = base + generator.normal(0.02, 0.2, size=1500)
    result = paired_difference(base, student)
    reference = stats.ttest_rel(student, base)
    assert result.p == pytest.approx(reference.pvalue)
    interval = reference.confidence_interval()
    # With this many queries the bootstrap and Student's interval meet.
    assert result.low == pytest.approx(interval.low, abs=0.001)
    assert result.high == pytest.approx(interval.high, abs=0.001)
    assert result.mean == pytest.approx((student - base).mean())


def test_wins_losses_and_ties_add_up_to_the_queries():
    result = paired_difference(np.array([0.1, 0.5, 0.5, 1.0]), np.array([0.2, 0.4, 0.5, 1.0]))
    assert (result.wins, result.losses, result.ties) == (1, 1, 2)


def test_the_95_percent_interval_covers_the_true_mean_in_at_least_34_of_40_samples():
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(40):
        differences = generator.normal(0.05, 0.3, size=200)
        result = paired_difference(np.zeros(200), differences, seed=trial)
        covered += result.low <= 0.05 <= result.high
    assert covered >= 34


def test_the_student_is_recommended_only_if_the_whole_interval_is_above_zero():
    generator = np.random.default_rng(2)
    noise = generator.normal(0, 0.1, size=400)
    base = np.zeros(400)
    for shift, recommended, words in (
        (0.05, "student", "is better"),
        (0.0, "base", "no better"),
        (-0.05, "base", "is worse"),
    ):
        name, sentence = verdict(paired_difference(base, noise - noise.mean() + shift), 400)
        assert name == recommended
        assert words in sentence


def test_the_base_is_kept_if_both_models_are_equal_or_there_is_one_query():
    same = paired_difference(np.full(50, 0.5), np.full(50, 0.5))
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert verdict(same, 50)[0] == "base"
    assert verdict(paired_difference(np.array([0.0]), np.array([1.0])), 1)[0] == "base"


def test_models_with_different_numbers_of_queries_cannot_be_compared():
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(np.zeros(3), np.zeros(4))
