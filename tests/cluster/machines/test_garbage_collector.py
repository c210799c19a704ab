"""The garbage collector rests while a model is loaded, and never longer."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from cluster.errors import InputError
from cluster.machines.garbage_collector import garbage_collection_off
from distill.encoders.loading import load_model
from distill.settings import EncoderSettings


def test_it_rests_inside_and_works_afterwards_even_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), garbage_collection_off(), garbage_collection_off():
        assert not gc.isenabled()
        print(1 / 0)
    assert gc.isenabled()


def test_who_has_switched_it_off_finds_it_off() -> None:
    gc.disable()
    try:
        with garbage_collection_off():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_model_is_loaded_without_it(tiny_encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sentence_transformers

    collected = []

    class Watched(sentence_transformers.SentenceTransformer):
        def __init__(self, *words: Any, **more: Any) -> None:
            collected.append(gc.isenabled())
            super().__init__(*words, **more)

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", Watched)
    load_model(EncoderSettings(model=tiny_encoder), "cpu")
    with pytest.raises(InputError):
        load_model(EncoderSettings(model="./missing"), "cpu")
    assert collected == [False]
    assert gc.isenabled()
