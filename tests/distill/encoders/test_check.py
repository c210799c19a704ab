"""The check before a run: every kind of model passes it, and what could not be used is refused with a reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import InputError
from distill.encoders import check_stage
from distill.encoders.check import check_encoder
from distill.encoders.encoder import Encoder
from distill.settings.encoders import EncoderSettings, LoraSettings, StudentSettings
from tests.distill.conftest import POOL, open_run
from tests.distill.model_kinds import KINDS, PROMPTS


def student(kind: str, folder: Path, **more) -> StudentSettings:
    settings = {"dtype": "float32", "max_query_tokens": 32, "trust_remote_code": kind == "custom code"}
    return StudentSettings(model=KINDS[kind](folder), **{**settings, **more})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_passes(kind: str, tmp_path: Path):
    checked = check_encoder(student(kind, tmp_path), "cpu")
    assert checked.cosine > 0.9999
    assert checked.similarity == ("dot" if "inner product" in kind else "cosine")
    assert (checked.length == pytest.approx(1, abs=1e-4)) == (checked.similarity == "cosine")
    if kind == "Router":
        assert (checked.query_prompt, checked.passage_prompt) == (PROMPTS["query"], PROMPTS["document"])


def test_adapters_and_lower_precision_pass(tmp_path: Path):
    settings = student("mean", tmp_path, dtype="bfloat16", lora=LoraSettings(rank=2))
    assert 0.99 < check_encoder(settings, "cpu").cosine < 1


def test_what_a_person_should_know_is_said(tmp_path: Path):
    settings = student("inner product", tmp_path, max_passage_tokens=512)
    checked = check_encoder(settings, "cpu")
    cut, temperature = checked.remarks(settings)
    assert cut == "passages are cut at 128 tokens and not at 512: the model has no more positions"
    assert f"multiply student_temperature and contrastive_temperature by about {checked.length**2:.2g}" in temperature
    assert not list(checked.remarks(EncoderSettings(model=settings.model, max_query_tokens=32, max_passage_tokens=128)))


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path):
    """Its ids lie beyond the model's table of words."""
    folder = Path(KINDS["mean"](tmp_path / "one"))
    other = Path(KINDS["last token"](tmp_path / "other"))
    tokenizer = next(other.rglob("tokenizer.json"))
    shutil.copy(tokenizer, next(folder.rglob("tokenizer.json")))
    with pytest.raises(InputError, match="was loaded, but cannot read a text"):
        check_encoder(EncoderSettings(model=str(folder), dtype="float32"), "cpu")


def test_a_model_that_is_encoded_in_another_way_than_by_its_library_is_refused(tmp_path: Path, monkeypatch):
    settings = student("mean", tmp_path)
    own = Encoder.encode_queries
    monkeypatch.setattr(Encoder, "encode_queries", lambda self, texts: np.roll(own(self, texts), 1, axis=1))
    with pytest.raises(InputError, match="is not encoded as sentence-transformers does: the cosine"):
        check_encoder(settings, "cpu")


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    settings = student("mean", tmp_path)
    (weights,) = Path(settings.model).rglob("*.safetensors")
    save_file({key: value * float("nan") for key, value in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(InputError, match="gives vectors that are not finite"):
        check_encoder(settings, "cpu")


def test_a_changed_encoder_is_checked_again_in_a_run_and_an_unchanged_one_is_not(
    tiny_encoder: str, local_ray, tmp_path
):
    """A later stage may be done again with another student; its check must not ask for the corpus to be redone."""
    settings = EncoderSettings(model=tiny_encoder, max_passage_tokens=48, dtype="float32")
    with open_run(tmp_path / "run") as run:
        first = check_stage.build(run, "student", settings, POOL)
        plan = (tmp_path / "run" / "checks" / "student" / "plan.json").read_bytes()
        check_stage.build(run, "student", settings, POOL)
        assert (tmp_path / "run" / "checks" / "student" / "plan.json").read_bytes() == plan
        assert first.read().to_pylist()[0]["passage_tokens"] == 48
        changed = check_stage.build(run, "student", settings.model_copy(update={"max_passage_tokens": 32}), POOL)
        assert changed.read().to_pylist()[0]["passage_tokens"] == 32
        with pytest.raises(InputError, match=r"^student: model .* no such folder"):
            check_stage.build(run, "student", settings.model_copy(update={"model": "/no/such/model"}), POOL)
