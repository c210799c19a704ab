from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from distill.lists.ensemble import Ensemble, ensemble_scores, ranges_of, ranks
from distill.lists.ensemble_stage import LEAST_QUERIES, SourceQuery, in_words, learn
from distill.lists.learn import STEPS, SourceRanks, learn_weights, on_grid
from distill.settings.ensemble import EnsembleSettings

ZSCORE = EnsembleSettings(scale="zscore")


def random_run(queries: int, teachers: int, seed: int) -> tuple[list[np.ndarray], list[int]]:
    """Scores of unlike teachers: each sees the sources with another strength, and they score in steps, with ties."""
    generator = np.random.default_rng(seed)
    strengths = generator.uniform(0.0, 1.6, size=teachers)
    parts, sources = [], []
    for _ in range(queries):
        size = int(generator.integers(3, 12))
        source = int(generator.integers(size))
        scores = generator.normal(size=(teachers, size))
        scores[:, source] += strengths * (generator.random(teachers) < 0.6)
        parts.append(np.round(scores, 1))
        sources.append(source)
    return parts, sources


def by_hand(parts: list[np.ndarray], sources: list[int], weights: np.ndarray) -> float:
    """Mean reciprocal rank, one ranking after the other."""
    total = 0.0
    for part, source in zip(parts, sources, strict=True):
        ranking = sorted(range(part.shape[1]), key=lambda one: (-float(weights @ part[:, one]), one))
        total += 1 / (1 + ranking.index(source))
    return total / len(parts)


def test_the_ensemble_is_the_weighted_sum_of_raw_scores():
    scores = [np.array([1.0, 2.0]), np.array([10.0, -10.0])]
    np.testing.assert_allclose(ensemble_scores(scores, [1.0, 0.05]), [1.5, 1.5])
    np.testing.assert_allclose(Ensemble((1.0, 0.05)).scores(scores), [1.5, 1.5])
    assert Ensemble((1.0, 0.05)).is_plain


def test_scaled_scores_are_those_of_scipy_over_all_queries_together():
    generator = np.random.default_rng(5)
    queries = [[generator.normal(3, 9, size).astype(np.float32), generator.random(size)] for size in (4, 30, 7)]
    for scale in ("zscore", "minmax"):
        ensemble = Ensemble((1.0, 1.0), ranges=ranges_of(EnsembleSettings(scale=scale), ["a", "b"], queries))
        got = np.concatenate([ensemble.parts(query) for query in queries], axis=1)
        for teacher in range(2):
            raw = np.concatenate([query[teacher].astype(np.float64) for query in queries])
            expected = stats.zscore(raw) if scale == "zscore" else (raw - min(raw)) / (max(raw) - min(raw))
            np.testing.assert_allclose(got[teacher], expected, atol=1e-9)


def test_a_teacher_that_scores_all_alike_is_named_unless_nothing_is_scaled():
    queries = [[np.array([1.0, 2.0]), np.array([0.1, 0.1])], [np.array([3.0]), np.array([0.1])]]
    with pytest.raises(ValueError, match=r"'flat' gives every passage the score 0\.1"):
        ranges_of(ZSCORE, ["good", "flat"], queries)
    assert ranges_of(EnsembleSettings(), ["good", "flat"], queries) is None


def test_reciprocal_ranks_are_added_with_their_weights_and_ties_go_by_position():
    scores = [np.array([0.5, 0.9, 0.5]), np.array([-1.0, -3.0, -2.0])]
    assert ranks(scores[0]).tolist() == [2, 1, 3]
    expected = [2 / 62 + 3 / 61, 2 / 61 + 3 / 63, 2 / 63 + 3 / 62]
    np.testing.assert_allclose(Ensemble((2.0, 3.0), "rrf").scores(scores), expected)


def test_an_ensemble_is_the_same_after_it_was_written_as_json():
    for ensemble in (Ensemble((1.0, 0.1)), Ensemble((0.3,), "rrf"), Ensemble((0.35, 0.65), ranges=((1 / 3, 2.0),) * 2)):
        assert Ensemble.from_record(json.loads(json.dumps(ensemble.record()))) == ensemble


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({"combine": "rrf", "scale": "zscore"}, "leave `scale` out"),
        ({"weights": "learnt"}, "set scale: zscore, scale: minmax or combine: rrf"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused_with_the_remedy(fields: dict, remedy: str):
    with pytest.raises(ValidationError, match=remedy):
        EnsembleSettings(**fields)


def test_the_mean_reciprocal_rank_is_that_of_rankings_made_one_by_one():
    parts, sources = random_run(60, 3, seed=1)
    measured = SourceRanks(parts, sources)
    for weights in ([1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.25, 0.5, 0.25]):
        assert measured.mean_reciprocal_rank(weights) == pytest.approx(by_hand(parts, sources, np.array(weights)))


@pytest.mark.parametrize(("teachers", "seed"), [(1, 0), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2), (4, 0)])
def test_learnt_weights_are_as_good_as_the_best_of_the_whole_grid(teachers: int, seed: int):
    parts, sources = random_run(80, teachers, seed)
    measured = SourceRanks(parts, sources)
    best = max(
        measured.mean_reciprocal_rank(np.array(point) / STEPS)
        for point in product(range(STEPS + 1), repeat=teachers)
        if sum(point) == STEPS
    )
    weights = learn_weights(measured, [1.0] * teachers)
    assert sum(weights) == pytest.approx(1)
    assert measured.mean_reciprocal_rank(weights) == pytest.approx(best, abs=1e-12)


def test_weights_go_to_the_nearest_grid_point():
    assert on_grid([1.0, 1.0, 1.0]) == (7, 7, 6)
    assert on_grid([3.0, 1.0]) == (15, 5)
    assert on_grid([1.0, 0.001]) == (20, 0)


def source_queries(parts: list[np.ndarray], sources: list[int]) -> list[SourceQuery]:
    return [
        SourceQuery("words", f"p{number}", source, np.arange(part.shape[1]), list(part))
        for number, (part, source) in enumerate(zip(parts, sources, strict=True))
    ]


def test_weights_are_learnt_away_from_a_teacher_that_knows_nothing():
    """The first teacher is noise. The second one puts the source first for most queries."""
    generator = np.random.default_rng(2)
    parts, sources = [], []
    for _ in range(300):
        source = int(generator.integers(10))
        scores = generator.normal(size=(2, 10))
        scores[1, source] += 3
        parts.append(scores)
        sources.append(source)
    weights, record = learn(source_queries(parts, sources), Ensemble((1.0, 1.0)), seed=0)
    assert record["kept"] == "learnt"
    assert list(weights) == record["learnt"]["weights"]
    assert weights[1] > 0.85
    assert record["learnt"]["held_out"] > record["given"]["held_out"] + 0.1
    assert record["queries"] + record["held_out"] == 300
    assert 100 < record["held_out"] < 200
    assert f"{record['learnt']['held_out']:.4f} with the learnt ones" in in_words(record)


def test_learnt_weights_that_are_worse_on_held_out_sources_are_not_kept():
    """On the half to learn from the first teacher is right, on the other half the second one; 1 to 3 is given."""
    from distill.lists.build import split_of

    parts, sources = [], []
    for number in range(200):
        is_learning = split_of(f"weights p{number}", 0.5, 0) == "train"
        right, wrong = np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0])
        parts.append(np.stack([right, wrong] if is_learning else [wrong, right]))
        sources.append(1)
    weights, record = learn(source_queries(parts, sources), Ensemble((1.0, 3.0)), seed=0)
    assert weights == (1.0, 3.0)
    assert record["kept"] == "given"
    assert record["learnt"]["learning"] == 1
    assert record["given"]["held_out"] == 1
    assert "the given ones are kept" in in_words(record)


def test_few_queries_decide_nothing():
    parts, sources = random_run(LEAST_QUERIES, 2, seed=0)
    weights, record = learn(source_queries(parts, sources), Ensemble((1.0, 0.5)), seed=0)
    assert weights == (1.0, 0.5)
    assert record["learnt"] is None
    assert f"only {LEAST_QUERIES} queries" in in_words(record)
