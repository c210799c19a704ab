"""A model that cannot be loaded is bad input: the error says which model of the recipe it is and what was expected."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import InputError
from distill.encoders.encoder import Encoder
from distill.encoders.loading import load_model, resolve_model
from distill.settings.encoders import EncoderSettings, StudentSettings
from distill.settings.teachers import TeacherSettings
from distill.teachers.cross_encoder import CrossEncoderScorer, load_cross_encoder
from tests.models import save_llama


def encoder(folder: str) -> None:
    load_model(EncoderSettings(model=folder), "cpu")


def pooled(folder: str) -> None:
    load_model(StudentSettings(model=folder, pooling="mean"), "cpu")


def teacher(folder: str) -> None:
    load_cross_encoder(TeacherSettings(kind="cross_encoder", model=folder), "cpu")


@pytest.mark.parametrize(
    ("load", "role", "expected"),
    [
        (encoder, "model", "Expected a folder with safetensors weights, or a model id that the hub"),
        (pooled, "model", "Expected a folder with safetensors weights, or a model id that the hub"),
        (teacher, "teacher model", "Expected a sequence-classification model: a folder with safetensors weights, or"),
    ],
)
def test_a_folder_without_a_model_is_refused_with_what_was_expected(load, role: str, expected: str, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(InputError) as refused:
        load(str(tmp_path))
    text = str(refused.value)
    assert text.startswith(f"{role} '{tmp_path}' cannot be loaded: ")
    assert expected in text
    assert "trust_remote_code" not in text, "no code is in question"


def test_an_encoder_named_as_a_reranker_is_refused_since_its_head_would_be_random(tiny_encoder: str):
    with pytest.raises(InputError, match=r"lacks weights: its files hold nothing for classifier\."):
        teacher(tiny_encoder)


def test_a_language_model_without_its_layers_is_refused(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    from distill.teachers.language_model import load_language_model

    (weights,) = save_llama(tmp_path).glob("*.safetensors")
    save_file({key: value for key, value in load_file(weights).items() if "mlp" not in key}, weights, {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks weights: its files hold nothing for model\.layers\.0\.mlp"):
        load_language_model(TeacherSettings(kind="causal", model=str(tmp_path), template="qwen3-reranker"), "cpu")


def without_padding(folder: Path) -> str:
    """The folder, with a tokenizer that names no token of padding."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (path := folder / name).exists():
            saved = json.loads(path.read_text())
            saved.pop("pad_token", None)
            path.write_text(json.dumps(saved))
    saved = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(saved | {"padding": None}))
    return str(folder)


def test_a_tokenizer_without_a_token_of_padding_gets_one(tiny_reranker: str, tiny_encoder: str, tmp_path: Path):
    pairs = [("a mill", "the mill of the old town"), ("harbour", "a " * 30)]
    scores = []
    for folder in (tiny_reranker, without_padding(Path(shutil.copytree(tiny_reranker, tmp_path / "reranker")))):
        scorer = CrossEncoderScorer(TeacherSettings(kind="cross_encoder", model=folder, dtype="float32"), "cpu")
        scores.append(scorer.score(pairs))
    np.testing.assert_allclose(*scores, atol=1e-5)

    vectors = [
        Encoder(EncoderSettings(model=folder, dtype="float32"), "cpu").encode_queries(["a mill", "a " * 30])
        for folder in (tiny_encoder, without_padding(Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))))
    ]
    np.testing.assert_allclose(*vectors, atol=1e-5)


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_the_packaged_model_has_two_names(name: str) -> None:
    assert Path(resolve_model(name), "config.json").is_file()


def test_a_model_of_another_owner_with_the_same_last_name_is_another_model() -> None:
    assert resolve_model("my-org/all-MiniLM-L6-v2") == "my-org/all-MiniLM-L6-v2"
