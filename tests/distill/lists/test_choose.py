"""Choosing a list of the candidates: by hand, against plain loops, and what holds for any scores."""

from __future__ import annotations

import numpy as np
import pytest

from distill.lists.build import Scale, TrainingList, build_list
from distill.lists.choose import NOT_FOUND, choose, contested, ranks_of, spread, stratified, top
from distill.settings.lists import ListSettings

CHOICES = ("top", "contested", "spread", "stratified")


def chosen_in_words(scores: list[float], length: int, how: str, ranks: list[int]) -> set[int]:
    """The definitions as loops over Python lists."""
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    if how == "top":
        return set(order[:length])
    if how == "spread":
        return {order[round(number * (len(scores) - 1) / (length - 1))] for number in range(length)}
    if how == "contested":
        chosen = order[: (length + 1) // 2]
        rest = [place for place in order if place not in chosen]
        found = sorted((place for place in rest if ranks[place] != NOT_FOUND), key=lambda place: ranks[place])
        return {*chosen, *(found + [place for place in rest if ranks[place] == NOT_FOUND])[: length - len(chosen)]}
    chosen = []
    for number in range(length):
        target = max(scores) + number * (min(scores) - max(scores)) / (length - 1)
        free = [place for place in range(len(scores)) if place not in chosen]
        chosen.append(min(free, key=lambda place: (abs(scores[place] - target), place)))
    return set(chosen)


@pytest.mark.parametrize("how", CHOICES)
def test_any_choice_is_that_of_its_definition_distinct_and_has_the_best(how: str):
    generator = np.random.default_rng(5)
    for _ in range(300):
        size = int(generator.integers(2, 40))
        length = int(generator.integers(2, size + 1))
        scores = generator.normal(size=size)  # without ties, so that rounding of a target decides nothing
        ranks = np.where(generator.random(size) < 0.3, NOT_FOUND, generator.permutation(size))
        picked = choose(scores, length, how, ranks)
        assert set(picked.tolist()) == chosen_in_words(scores.tolist(), length, how, ranks.tolist())
        assert len(set(picked.tolist())) == len(picked) == length
        assert picked[0] == scores.argmax()
        assert (np.diff(scores[picked]) <= 0).all()
        np.testing.assert_array_equal(picked, choose(scores.copy(), length, how, ranks.copy()))


@pytest.mark.parametrize("how", CHOICES)
def test_with_ties_a_list_is_full_sorted_and_keeps_the_order_of_candidates(how: str):
    generator = np.random.default_rng(6)
    for _ in range(200):
        scores = generator.integers(0, 4, size=15).astype(float)
        picked = choose(scores, 7, how, ranks_of(generator.normal(size=15)))
        assert len(set(picked.tolist())) == 7
        assert scores[picked[0]] == scores.max()
        assert picked.tolist() == sorted(picked.tolist(), key=lambda place: (-scores[place], place))
    assert choose(np.zeros(5), 3, how, np.arange(5)).tolist() == ([0, 2, 4] if how == "spread" else [0, 1, 2])


SCORES = np.array([0.1, 0.9, 0.8, 0.2, 0.85, 0.5, 0.0, 0.88])  # ranked: 1 7 4 2 5 3 0 6


def test_the_top_is_the_best_by_score():
    assert top(SCORES, 4).tolist() == [1, 7, 4, 2]


def test_contested_are_the_best_and_what_the_student_ranks_highest_of_the_rest():
    student = np.array([3, 0, 7, NOT_FOUND, 5, 6, 1, NOT_FOUND])
    assert contested(SCORES, 5, student).tolist() == [1, 7, 4, 0, 6], "three of five are the teachers'"
    assert contested(SCORES, 4, student).tolist() == [1, 7, 0, 6]
    unknown = np.full(8, NOT_FOUND)
    assert contested(SCORES, 5, unknown).tolist() == top(SCORES, 5).tolist(), "the teachers fill the list"
    assert contested(SCORES, 5, np.where(np.arange(8) == 6, 0, NOT_FOUND)).tolist() == [1, 7, 4, 2, 6]


def test_spread_is_even_over_ranks_and_stratified_over_scores():
    assert spread(SCORES, 3).tolist() == [1, 5, 6], "round(3.5) is 4, the fifth rank"
    assert stratified(SCORES, 4).tolist() == [1, 5, 3, 6], "0.9, 0.6, 0.3 and 0 are wanted"
    assert stratified(np.array([10.0, 0.0, 0.1, 0.2]), 3).tolist() == [0, 3, 1], "5 is nearest to 0.2"


def test_ranks_start_at_the_highest_score():
    assert ranks_of(np.array([0.2, 0.9, 0.2, 0.5])).tolist() == [2, 0, 3, 1]


# ---- in a list


FLAT = Scale(low=0.0, high=1.0, best=0.0)


@pytest.mark.parametrize("how", CHOICES)
def test_a_list_holds_its_sources_and_no_copies_whatever_the_choice(how: str):
    generator = np.random.default_rng(7)
    settings = ListSettings(length=6, choice=how)
    for _ in range(100):
        scores = generator.random(30)
        first, second = np.argsort(-scores)[[0, 5]].tolist()
        scores[second] = scores[first] - 1e-9
        copies = np.zeros(30, dtype=bool)
        copies[generator.permutation([place for place in range(30) if place not in (first, second)])[:8]] = True
        student = ranks_of(generator.random(30))
        for other in (None, second):
            made = build_list(
                scores,
                first,
                FLAT,
                settings,
                leave_out_source=False,
                second=other,
                copies=copies,
                student_ranks=student,
            )
            assert isinstance(made, TrainingList)
            assert {first, *([other] if other is not None else [])} <= set(made.positions.tolist())
            assert len(set(made.positions.tolist())) == 6
            assert not copies[made.positions].any()
            assert (np.diff(made.scores) <= 0).all()
        made = build_list(
            scores, first, FLAT, settings, leave_out_source=True, second=second, copies=copies, student_ranks=student
        )
        assert isinstance(made, TrainingList)
        assert not {first, second} & set(made.positions.tolist())


def test_a_copy_that_scores_above_its_source_is_no_better_passage():
    scores, copies = np.array([0.9, 0.8, 0.3, 0.2]), np.array([True, False, False, False])
    settings = ListSettings(length=3)
    made = build_list(scores, 1, FLAT, settings, leave_out_source=False, copies=copies)
    assert isinstance(made, TrainingList)
    assert made.positions.tolist() == [1, 2, 3]
    assert build_list(scores, 1, FLAT, settings, leave_out_source=False) == "source_not_first"
    longer = ListSettings(length=4)
    assert build_list(scores, 1, FLAT, longer, leave_out_source=False, copies=copies) == "few_candidates"
