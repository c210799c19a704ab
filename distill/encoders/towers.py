"""The modules that a text passes. A model with two towers (`Router`) has some for queries and others for passages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def tower(model: SentenceTransformer, task: str | None) -> list[Any]:
    """The modules for texts of a task, "query" or "document", in their order."""
    from sentence_transformers.sentence_transformer.modules import Router

    first, *others = list(model)
    if not isinstance(first, Router):
        return [first, *others]
    route = first._resolve_route(task=task, modality="text")
    assert route is not None, "it raises an error for a text without a route"
    return [*first.sub_modules[route].children(), *others]
