"""The form in which queries and passages are put to a model: prompts, and titles before texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.settings.encoders import EncoderSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


PASSAGE_PROMPTS = ("document", "passage", "corpus")  # names, as `encode_document` looks for them


def query_prompt(settings: EncoderSettings, model: SentenceTransformer) -> str:
    """Prefix of queries: the recipe's, else the one of the model's `encode_query`, else empty."""
    return settings.query_prompt if settings.query_prompt is not None else model.prompts.get("query") or ""


def passage_prompt(settings: EncoderSettings, model: SentenceTransformer) -> str:
    """Prefix of passages: the recipe's, else the model's own, else empty.

    Many models call it "passage". sentence-transformers 6 has an empty prompt "document" in every model and so never
    uses that one, though such a model was trained with it.
    """
    if settings.passage_prompt is not None:
        return settings.passage_prompt
    return next((found for name in PASSAGE_PROMPTS if (found := model.prompts.get(name))), "")


def passage_text(title: str | None, text: str) -> str:
    """Text of a passage as every model gets it: "title text", as in MTEB."""
    return f"{title or ''} {text}".strip()
