"""The benchmarks that compare with sentence-transformers: both contestants compute the same, and are counted alike."""

from __future__ import annotations

import numpy as np

from benchmarks import encoding, scoring
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
