"""An exported folder gives the embeddings of the trained student, and its card tells what ran."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from distill.encoders.encoder import Encoder
from distill.encoders.export import save
from distill.encoders.loading import load_model
from distill.settings.encoders import EncoderSettings, StudentSettings
from tests.corpus import ASPECTS, PLACES, QUERIES

TEXTS = [template.format(*place) for place in PLACES[:6] for template in ASPECTS]
SEARCHES = [template.format(*place) for place in PLACES[:6] for template in QUERIES]
FACTS = {"steps": 12, "best_step": 8, "dev": {"dev_ndcg@10": 0.61234567}, "model": "/somewhere/model", "nothing": None}


@pytest.fixture
def settings(tiny_encoder: str) -> StudentSettings:
    return StudentSettings(
        model=tiny_encoder, query_prompt="find: ", passage_prompt="passage: ", max_passage_tokens=96, dtype="float32"
    )


@pytest.fixture
def student(settings: StudentSettings) -> SentenceTransformer:
    """A student whose weights differ from those of its base."""
    model = load_model(settings, "cpu")
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def test_the_exported_folder_gives_equal_embeddings_with_its_prompts(
    student: SentenceTransformer, settings: StudentSettings, tmp_path: Path
):
    trained = Encoder(settings, "cpu", student)
    queries, passages = trained.encode_queries(SEARCHES), trained.encode_passages([""] * len(TEXTS), TEXTS)
    save(student, tmp_path / "model", settings, FACTS)

    loaded = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(loaded.encode_query(SEARCHES), queries, atol=1e-6)
    np.testing.assert_allclose(loaded.encode_document(TEXTS), passages, atol=1e-6)
    np.testing.assert_allclose(loaded.encode([f"find: {text}" for text in SEARCHES]), queries, atol=1e-6)
    assert np.abs(loaded.encode(SEARCHES) - queries).max() > 1e-3, "the prompt changes embeddings"

    as_recipe = Encoder(EncoderSettings(model=str(tmp_path / "model"), max_passage_tokens=96, dtype="float32"), "cpu")
    np.testing.assert_allclose(as_recipe.encode_queries(SEARCHES), queries, atol=1e-6)
    np.testing.assert_allclose(as_recipe.encode_passages([""] * len(TEXTS), TEXTS), passages, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_plain_transformer_is_exported_with_the_pooling_it_was_trained_with(
    tiny_encoder: str, tmp_path: Path, pooling: str
):
    settings = StudentSettings(model=tiny_encoder, pooling=pooling, normalize=True, dtype="float32")
    model = load_model(settings, "cpu")
    expected = Encoder(settings, "cpu", model).encode_queries(SEARCHES)
    save(model, tmp_path / "model", settings, {})
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "model")).encode_query(SEARCHES), expected, atol=1e-6)


def test_the_folder_holds_safetensors_prompts_lengths_and_a_card_of_what_ran(
    student: SentenceTransformer, settings: StudentSettings, tmp_path: Path
):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("from an earlier training")
    save(student, tmp_path / "model", settings, FACTS)
    files = {path.name for path in (tmp_path / "model").rglob("*")}
    assert "model.safetensors" in files
    assert not {"pytorch_model.bin", "old"} & files
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "no half-written folder is left"
    config = json.loads((tmp_path / "model" / "config_sentence_transformers.json").read_text())
    assert config["prompts"] == {"query": "find: ", "document": "passage: "}
    assert SentenceTransformer(str(tmp_path / "model")).max_seq_length == 96

    card = (tmp_path / "model" / "README.md").read_text()
    for words in (
        "`find: `",
        "`passage: `",
        "| best step | 8 |",
        "| dev, dev ndcg@10 | 0.6123 |",
        "| dimensions | 32 |",
    ):
        assert words in card
    assert str(settings.model) not in card
    assert "/somewhere" not in card
    assert "None" not in card
