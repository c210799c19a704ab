"""Benchmarks: contestants compute the same and are counted alike, and what is counted without them is right."""

from __future__ import annotations

import numpy as np

from benchmarks import encoding, judging, prefix_blocks, scoring
from benchmarks.turns import OURS, THEIRS, Contestant, compare, rows
from tests.corpus import ASPECTS, PLACES
from tests.models import save_encoder, save_reranker

TEXTS = [template.format(*place) for place in PLACES[:6] for template in ASPECTS]


def check(both: dict[str, Contestant], count: int, tolerance: float) -> None:
    compare(both, 2)
    np.testing.assert_allclose(both[OURS].results, both[THEIRS].results, atol=tolerance)
    assert both[OURS].meter.read == both[THEIRS].meter.read > count
    table = rows("float32", both, count).splitlines()
    assert len(table) == 4
    assert all(len(one.seconds) == 2 for one in both.values())


def test_scoring_compares_the_same_scores_of_the_same_tokens(tmp_path):
    pairs = [(text[:20], other) for text in TEXTS[:3] for other in TEXTS]
    check(scoring.contestants(str(save_reranker(tmp_path)), "float32", 64, 8, pairs), len(pairs), 1e-3)


def test_encoding_compares_the_same_vectors_of_the_same_tokens(tmp_path):
    check(encoding.contestants(str(save_encoder(tmp_path)), "float32", 64, 8, TEXTS), len(TEXTS), 1e-3)


def test_tokens_that_a_prefix_cache_leaves_are_counted_in_whole_blocks():
    prompts = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 9], [1, 2, 3, 4], [1, 2, 3, 7]]
    # the last token of a prompt is computed always, so the third finds one block of two again and not both
    assert prefix_blocks.computed(prompts, 2) == 5 + 1 + 2 + 2
    assert prefix_blocks.computed(prompts, 1) == 5 + 1 + 1 + 1
    assert prefix_blocks.computed(prompts, 8) == 5 + 5 + 4 + 4


def test_the_share_of_good_queries_above_wrong_ones():
    good, wrong = np.array([0.9, 0.5]), np.array([0.1, 0.5, 0.7])
    pairs = [(a > b) + (a == b) / 2 for a in good for b in wrong]
    assert judging.auc(good, wrong) == sum(pairs) / len(pairs) == 4.5 / 6
    assert np.isnan(judging.auc(good, wrong[:0]))
