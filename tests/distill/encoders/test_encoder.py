"""An encoder reads texts as sentence-transformers does, whatever is fastest on the processor."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from distill.encoders.compute.cpu_attention import NAME
from distill.encoders.compute.cpu_linears import JoinedLayers
from distill.encoders.device import has_bfloat16_linear
from distill.encoders.encoder import Encoder
from distill.settings import EncoderSettings
from tests.distill.training.test_step import problem

TEXTS = [*problem()[1], "slate", ""]


def read(model, dtype, **settings):
    encoder = Encoder(EncoderSettings(model="m", max_passage_tokens=48, dtype=dtype, **settings), "cpu", model)
    return encoder, encoder.encode_passages([""] * len(TEXTS), TEXTS)


def error(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_vectors_are_those_of_sentence_transformers(student, monkeypatch):
    """In bfloat16 as near to them as autocast's."""
    model = student[0].model
    model.max_seq_length = 48
    expected = model.encode(TEXTS)
    encoder, found = read(model, "float32", batch_tokens=256)
    assert error(found, expected) < 1e-5
    assert encoder.module.attention != NAME, "torch's own is as fast"
    assert isinstance(encoder.module.layers, contextlib.nullcontext)

    monkeypatch.setattr("distill.encoders.compute.choose.choose_for_reading", lambda *_: None)
    _, autocast = read(model, "bfloat16")
    monkeypatch.undo()
    encoder, found = read(model, "bfloat16", batch_tokens=256)
    assert encoder.module.attention == NAME
    assert isinstance(encoder.module.layers, JoinedLayers) == has_bfloat16_linear()
    assert 0 < error(found, expected) < 1.5 * error(autocast, expected)


def test_a_model_that_attends_otherwise_is_read_as_it_was_loaded(student, monkeypatch):
    model = student[0].model
    loaded = model.transformers_model.config._attn_implementation
    _, expected = read(model, "float32")
    monkeypatch.setattr("distill.encoders.compute.choose.difference", lambda *_: "other embeddings")
    encoder, found = read(model, "bfloat16")
    assert model.transformers_model.config._attn_implementation == loaded != "eager"
    assert encoder.module.attention == loaded and error(found, expected) < 0.03


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_texts_are_no_vectors(student, dtype):
    encoder = Encoder(EncoderSettings(model="m", dtype=dtype), "cpu", student[0].model)
    assert encoder.encode_queries([]).shape == (0, encoder.dimension)
    assert np.isfinite(encoder.encode_queries(["slate"])).all()
