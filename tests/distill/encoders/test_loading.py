"""A model that cannot be loaded is bad input: the error says which model of the recipe it is and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import InputError
from distill.encoders.loading import load_model
from distill.settings.encoders import EncoderSettings, StudentSettings
from distill.settings.teachers import TeacherSettings
from distill.teachers.cross_encoder import load_cross_encoder


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
