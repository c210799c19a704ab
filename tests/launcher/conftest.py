"""Fixtures of recipes whose plans are tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.recipe import Recipe
from launcher.recipe_file import load_recipe
from tests.launcher.planned import save_llama
from tests.pipeline import recipe_text


@pytest.fixture(scope="session")
def eight_billion(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of Llama-3.1-8B's configuration (arXiv 2407.21783, table 3): 8.03 G parameters."""
    return save_llama(
        tmp_path_factory.mktemp("llama"), hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=False,
    )  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path, hundred: Path, tiny_encoder: str) -> Recipe:
    (tmp_path / "recipe.yaml").write_text(recipe_text(hundred, tiny_encoder, tmp_path / "run"))
    return load_recipe(str(tmp_path / "recipe.yaml"))
