from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from distill.teachers.agreement import pair_agreement


def test_a_teacher_agrees_with_itself_and_not_at_all_with_its_reverse():
    scores = [np.arange(30.0), np.array([3.0, 1.0, 2.0])]
    same = pair_agreement(scores, [5 * one + 1 for one in scores])
    assert (same["queries"], same["tau"], same["overlap"]) == (2, pytest.approx(1), pytest.approx(1))
    reverse = pair_agreement(scores, [-one for one in scores])
    assert reverse["tau"] == pytest.approx(-1)
    assert reverse["overlap"] == pytest.approx(np.mean([0, 1])), "of three passages all are among the first ten"


def test_tau_is_tau_b_counted_pair_by_pair_with_ties():
    one, other = np.array([1.0, 2.0, 2.0, 3.0, 5.0]), np.array([1.0, 3.0, 2.0, 2.0, 4.0])
    signs = [(np.sign(one[i] - one[j]), np.sign(other[i] - other[j])) for i in range(5) for j in range(i)]
    agreeing = sum(a * b for a, b in signs)
    pairs = [sum(sign[teacher] != 0 for sign in signs) for teacher in range(2)]
    assert pair_agreement([one], [other])["tau"] == pytest.approx(agreeing / np.sqrt(pairs[0] * pairs[1]))
    assert pair_agreement([one], [other])["tau"] == pytest.approx(stats.kendalltau(one, other, variant="b").statistic)


def test_overlap_counts_the_first_ten_passages_of_each_query():
    one = np.arange(20.0)  # its first ten are the positions 10 to 19
    other = np.roll(one, 4)  # its first ten are the positions 14 to 19 and 0 to 3
    assert pair_agreement([one], [other])["overlap"] == pytest.approx(0.6)


def test_a_query_whose_passages_a_teacher_scores_alike_has_no_tau():
    one, other = np.arange(12.0), np.zeros(12)
    assert pair_agreement([one, one], [other, one])["tau"] == pytest.approx(1)
    assert pair_agreement([one], [other])["tau"] is None
