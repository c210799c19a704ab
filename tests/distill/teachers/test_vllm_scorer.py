"""Causal teachers on the real vLLM engine on CPU: the same scores as by transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from distill.settings.teachers import TeacherSettings
from distill.teachers import vllm_scorer
from distill.teachers.language_model import LanguageModelScorer
from distill.teachers.template import template_of
from distill.teachers.vllm_scorer import VllmScorer
from tests.distill.teachers import language_models as tiny
from tests.distill.teachers.test_language_models import PAIRS
from tests.quantise import configuration


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


@pytest.mark.parametrize(
    ("quantisation", "asked", "dtype"),
    [
        (None, "auto", "float32"),
        (configuration(8), "auto", "float32"),
        (configuration(4), "auto", "auto"),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "zero_point": True}, "auto", "auto"),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "zero_point": True}, "float32", "float32"),
    ],
    ids=["plain", "eight bits", "four bits", "awq", "awq, as the recipe says"],
)
def test_weights_that_float32_does_not_fit_leave_the_choice_to_vllm(monkeypatch, tmp_path, quantisation, asked, dtype):
    monkeypatch.setattr("distill.encoders.device.has_bfloat16", lambda: False)
    config = {"quantization_config": quantisation} if quantisation else {}
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = TeacherSettings(kind="causal", model=str(tmp_path), template="qwen3-reranker", dtype=asked)
    assert vllm_scorer._dtype(settings, str(tmp_path)) == dtype
