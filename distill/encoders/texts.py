"""The form in which queries and passages are put to a model: prompts, and titles before texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.settings.encoders import EncoderSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def query_prompt(settings: EncoderSettings, model: SentenceTransformer) -> str:
    """Prefix of queries: the recipe's, else the model's own, else empty."""
    return settings.query_prompt if settings.query_prompt is not None else model.prompts.get("query") or ""


def passage_prompt(settings: EncoderSettings, model: SentenceTransformer) -> str:
    """Prefix of passages: the recipe's, else the model's own, else empty."""
    if settings.passage_prompt is not None:
        return settings.passage_prompt
    return model.prompts.get("document") or model.prompts.get("passage") or ""


def passage_text(title: str | None, text: str) -> str:
    """Text of a passage as every model gets it: "title text", as in MTEB."""
    return f"{title or ''} {text}".strip()
