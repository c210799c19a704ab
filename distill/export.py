"""Export of a trained student as a folder that `SentenceTransformer(path)` loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.settings import StudentSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def save(model: SentenceTransformer, path: str | Path, settings: StudentSettings, facts: dict[str, Any]) -> None:
    """Writes the model folder."""
    model.max_seq_length = settings.max_passage_tokens
    model.save(str(path), safe_serialization=True, create_model_card=False)
