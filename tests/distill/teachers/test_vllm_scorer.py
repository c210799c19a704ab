"""Causal teachers on the real vLLM engine on CPU: the same scores as by transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.settings.teachers import TeacherSettings
from distill.teachers.language_model import LanguageModelScorer
from distill.teachers.template import template_of
from distill.teachers.vllm_scorer import VllmScorer
from tests.distill.teachers import language_models as tiny
from tests.distill.teachers.test_language_models import PAIRS


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "causal", "template": "qwen3-reranker"},
        {"kind": "causal", "template": "{query}\n{passage}\nRelevant:", "true_token": "Yes"},
        {"kind": "query_likelihood"},
    ],
    ids=["two_tokens", "one_token", "likelihood"],
)
def test_vllm_gives_the_scores_of_transformers(tmp_path: Path, fields: dict):
    settings = TeacherSettings(
        **fields, model=tiny.save_qwen(tmp_path, 3), dtype="float32", max_tokens=1000, engine="vllm",
        engine_args={"enforce_eager": True},
    )  # fmt: skip
    template = template_of(settings)
    assert template is not None
    expected = LanguageModelScorer(settings, template).score(PAIRS)
    scorer = VllmScorer(settings, template)
    try:
        scores = scorer.score([PAIRS[3], *PAIRS])
    finally:
        scorer.close()
    np.testing.assert_allclose(scores[1:], expected, atol=1e-3)
    assert scores[0] == pytest.approx(expected[3], abs=1e-3)
    assert len(np.unique(expected)) == len(PAIRS)
