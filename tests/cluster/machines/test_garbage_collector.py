"""The garbage collector is off while a model is loaded, and only then."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from cluster.errors import InputError
from cluster.machines.garbage_collector import garbage_collection_off
from distill.encoders.loading import load_model
from distill.settings.encoders import EncoderSettings


def test_it_is_off_inside_and_on_afterwards_even_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), garbage_collection_off(), garbage_collection_off():
        assert not gc.isenabled()
        print(1 / 0)
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with garbage_collection_off():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_model_is_loaded_without_it(tiny_encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sentence_transformers

    enabled = []

    class Watched(sentence_transformers.SentenceTransformer):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            enabled.append(gc.isenabled())
            super().__init__(*arguments, **named)

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", Watched)
    load_model(EncoderSettings(model=tiny_encoder), "cpu")
    with pytest.raises(InputError):
        load_model(EncoderSettings(model="./missing"), "cpu")
    assert enabled == [False]
    assert gc.isenabled()
