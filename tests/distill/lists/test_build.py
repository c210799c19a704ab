from __future__ import annotations

import numpy as np
import pytest

from distill.lists.build import (
    Scale,
    TrainingList,
    build_list,
    explain_empty,
    scale_of,
    scale_scores,
    scales_of,
    sources_are_first,
    split_of,
)
from distill.settings.lists import ListSettings

SETTINGS = ListSettings(length=3)
FLAT = Scale(low=0.0, high=10.0, best=0.0)


def list_of(scores: list[float], source: int | None, *, scale: Scale = FLAT, leave_out: bool = False, **settings):
    chosen = SETTINGS.model_copy(update=settings)
    return build_list(np.array(scores), source, scale, chosen, leave_out_source=leave_out)


def test_the_scale_is_the_percentiles_of_all_scores_and_of_the_best_scores():
    generator = np.random.default_rng(0)
    scores = [generator.normal(size=size) for size in (5, 40, 80)]
    scale = scale_of(scores, ListSettings(low_percentile=1, high_percentile=99, best_percentile=50))
    everything = np.sort(np.concatenate(scores))
    # Linear interpolation between order statistics (Hyndman and Fan's type 7), written out.
    for percent, value in ((0.01, scale.low), (0.99, scale.high)):
        position = percent * (len(everything) - 1)
        below = int(position)
        expected = everything[below] + (position - below) * (everything[below + 1] - everything[below])
        assert value == pytest.approx(expected)
    assert scale.best == pytest.approx(np.sort([of_query.max() for of_query in scores])[1])


def test_scores_without_any_spread_are_refused():
    with pytest.raises(ValueError, match="every passage scores 2"):
        scale_of([np.full(4, 2.0), np.full(3, 2.0)], SETTINGS)


def test_scaling_is_linear_between_the_percentiles_and_clipped_outside():
    scaled = scale_scores(np.array([-5.0, 2.0, 4.0, 6.0, 50.0]), Scale(2.0, 6.0, 0.0))
    assert scaled.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert scaled.dtype == np.float32


def test_a_list_holds_the_best_passages_by_descending_score():
    result = list_of([1.0, 9.0, 3.0, 5.0], source=1)
    assert isinstance(result, TrainingList)
    assert result.positions.tolist() == [1, 3, 2]
    np.testing.assert_allclose(result.scores, [0.9, 0.5, 0.3])


def test_ties_keep_the_order_of_the_candidates():
    result = list_of([4.0, 7.0, 4.0, 4.0], source=1)
    assert isinstance(result, TrainingList)
    assert result.positions.tolist() == [1, 0, 2]


def test_a_query_whose_source_is_not_first_is_dropped_unless_the_filter_is_off():
    assert list_of([1.0, 9.0, 3.0, 5.0], source=3) == "source_not_first"
    assert list_of([1.0, 9.0, 3.0, 5.0], source=-1) == "source_not_first"
    assert isinstance(list_of([1.0, 9.0, 3.0, 5.0], source=3, require_source_first=False), TrainingList)
    assert isinstance(list_of([9.0, 9.0, 3.0], source=1), TrainingList), "a tie for the first rank counts as first"


def test_a_logged_query_skips_the_source_filters_but_not_the_others():
    assert isinstance(list_of([1.0, 9.0, 3.0], source=None, leave_out=True), TrainingList)
    assert list_of([1.0, 9.0, 3.0], source=None, scale=Scale(0.0, 10.0, 9.5)) == "low_score"
    assert list_of([1.0, 9.0], source=None) == "few_candidates"
    assert list_of([], source=None) == "low_score"


def test_the_source_is_left_out_of_its_list_after_the_check_that_it_ranks_first():
    result = list_of([1.0, 9.0, 3.0, 5.0], source=1, leave_out=True)
    assert isinstance(result, TrainingList)
    assert result.positions.tolist() == [3, 2, 0]
    assert list_of([1.0, 9.0, 3.0, 5.0], source=3, leave_out=True) == "source_not_first"
    assert list_of([1.0, 9.0, 3.0], source=1, leave_out=True) == "few_candidates"


def test_all_queries_of_a_source_have_one_split_and_the_dev_fraction_is_as_asked():
    splits = [split_of(f"passage {number}", 0.1, 0) for number in range(20_000)]
    assert splits == [split_of(f"passage {number}", 0.1, 0) for number in range(20_000)]
    assert splits.count("dev") / len(splits) == pytest.approx(0.1, abs=0.01)
    assert splits != [split_of(f"passage {number}", 0.1, 1) for number in range(20_000)]
    assert {split_of(str(number), 0.0, 0) for number in range(1000)} == {"train"}


def test_an_empty_result_names_every_filter_with_its_count_and_what_to_change():
    message = explain_empty(12, {"source_not_first": 9, "low_score": 3}, SETTINGS)
    assert "of 12 scored queries" in message
    assert "source_not_first took 9" in message
    assert "lists.require_source_first=false" in message
    assert "low_score took 3" in message
    assert "few_candidates" not in message


# ---- queries over two passages


def two_sources(scores: list[float], first: int, second: int, *, leave_out: bool = False, **settings):
    chosen = SETTINGS.model_copy(update=settings)
    return build_list(np.array(scores), first, FLAT, chosen, leave_out_source=leave_out, second=second)


def test_both_passages_of_a_query_over_two_are_positives_whatever_the_teacher_says_of_one_alone():
    for scores, first, second in (([1.0, 9.0, 3.0, 5.0], 1, 0), ([1.0, 9.0, 3.0, 5.0], 0, 1)):
        result = two_sources(scores, first, second)
        assert isinstance(result, TrainingList)
        assert set(result.positions[:2].tolist()) == {0, 1}
        np.testing.assert_allclose(result.scores, [0.9, 0.9, 0.5])
    assert list_of([1.0, 9.0, 3.0, 5.0], source=1).positions.tolist() == [1, 3, 2], "with one source it is a negative"


def test_a_query_over_two_is_dropped_if_a_third_passage_is_better_than_both_or_one_is_missing():
    assert two_sources([1.0, 5.0, 9.0, 2.0], 0, 1) == "source_not_first"
    assert two_sources([9.0, 5.0, 1.0, 2.0], 0, -1) == "source_not_first"
    kept = two_sources([1.0, 5.0, 9.0, 2.0], 0, 1, require_source_first=False)
    assert isinstance(kept, TrainingList)
    assert kept.positions.tolist() == [2, 0, 1]


def test_where_sources_are_left_out_both_are():
    result = two_sources([9.0, 8.0, 1.0, 2.0, 3.0], 0, 1, leave_out=True)
    assert isinstance(result, TrainingList)
    assert result.positions.tolist() == [4, 3, 2]


# ---- scales


def random_scores(types: int = 2) -> tuple[list[np.ndarray], list[str], list[bool]]:
    generator = np.random.default_rng(8)
    names = [f"type{number % types}" for number in range(60)]
    scores = [generator.normal(loc=5.0 * number % types, size=12) for number in range(60)]
    return scores, names, (generator.random(60) < 0.6).tolist()


def test_the_bar_of_all_scores_is_their_percentile_over_the_queries_that_find_their_source():
    scores, _, first = random_scores()
    settings = ListSettings(best_percentile_of="all", best_percentile=25)
    kept = np.concatenate([of_query for of_query, is_first in zip(scores, first, strict=True) if is_first])
    best = scale_of(scores, settings, first)
    assert best.best == pytest.approx(np.quantile(kept, 0.25))
    assert scale_of(scores, settings).best == pytest.approx(np.quantile(np.concatenate(scores), 0.25))
    usual = scale_of(scores, ListSettings(), first)
    assert (best.low, best.high) == (usual.low, usual.high)
    assert best.best < usual.best


def test_each_type_has_the_percentiles_of_its_own_queries_if_they_differ():
    scores, types, first = random_scores()
    scores.append(np.full(12, 3.0))
    types, first = [*types, "flat"], [*first, True]
    for of in ("best", "all"):
        settings = ListSettings(percentiles_per_type=True, best_percentile_of=of)
        scales = scales_of(scores, settings, types, first)
        for name in ("type0", "type1"):
            own = [n for n, one in enumerate(types) if one == name]
            alone = scale_of([scores[n] for n in own], settings, [first[n] for n in own])
            assert scales.of(name) == alone
        assert scales.of("flat") == scales.of("never seen") == scales.of_all == scale_of(scores, settings, first)
    assert scales_of(scores, ListSettings(), types).of("type0") == scale_of(scores, ListSettings())


def test_sources_are_first_if_nothing_scores_above_them():
    scores = np.array([1.0, 3.0, 3.0, 2.0])
    for sources, first in (([1], True), ([2], True), ([3], False), ([-1], False), ([], True), ([3, 1], True)):
        assert sources_are_first(scores, sources) == first
    assert not sources_are_first(scores, [1, -1])


def test_fields_that_change_nothing_are_not_in_the_identity_of_lists():
    before = {"length", "require_source_first", "low_percentile", "high_percentile", "best_percentile",
              "dev_fraction", "seed"}  # fmt: skip
    assert set(ListSettings(duplicate_similarity=None).identity()) == before
    for change in ({"choice": "spread"}, {"best_percentile_of": "all"}, {"percentiles_per_type": True}):
        assert change.items() <= ListSettings(**change).identity().items()
    assert ListSettings().identity()["duplicate_similarity"] == 0.9
