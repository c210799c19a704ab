"""What a server that scores is asked, and how its answer is read: three protocols.

    score   POST /score  {"model", "text_1": query, "text_2": [passage, …]}
            answer       {"data": [{"index", "score"}, …]}
    rerank  POST /rerank {"model", "query", "documents": [passage, …]}
            answer       {"results": [{"index", "relevance_score"}, …]}
    tei     POST /rerank {"query", "texts": [passage, …]}
            answer       [{"index", "score"}, …]

The first two are those of vLLM's scoring endpoints; many servers and providers speak the second. The third is that of
text-embeddings-inference. The answers stand in any order: `index` is the place of the passage in the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cluster.errors import InputError
from distill.settings.teachers import TeacherSettings

_PATHS = {"score": "/score", "rerank": "/rerank", "tei": "/rerank"}
_LISTS = {"score": "data", "rerank": "results", "tei": None}
_SCORES = {"score": "score", "rerank": "relevance_score", "tei": "score"}


def address(settings: TeacherSettings) -> str:
    """Where requests are sent to."""
    return str(settings.base_url).rstrip("/") + _PATHS[settings.api]


def identity(settings: TeacherSettings) -> dict[str, Any]:
    """What determines the scores of a server: its model, and how it is asked. An address counts if no model is named.

    The server itself is not asked for its version: name a model that stays the same.
    """
    fields = settings.model_dump(mode="json", include={"kind", "model", "api", "engine_args"})
    return fields if settings.model else fields | {"base_url": settings.base_url}


def body(settings: TeacherSettings, query: str, passages: Sequence[str]) -> dict[str, Any]:
    """The JSON of a request: a query and n passages, and the recipe's `engine_args`.

    vLLM's `/score` and text-embeddings-inference are asked for logits; by default they bring scores between 0 and 1.
    """
    texts = list(passages)
    if settings.api == "tei":
        fields: dict[str, Any] = {"query": query, "texts": texts, "raw_scores": True}
    elif settings.api == "rerank":  # many servers speak it, and some refuse fields that they do not know
        fields = {"model": settings.model, "query": query, "documents": texts}
    else:
        fields = {"model": settings.model, "text_1": query, "text_2": texts, "use_activation": False}
    return fields | settings.engine_args


def read(settings: TeacherSettings, answer: Any, count: int) -> tuple[np.ndarray, int]:
    """The scores of an answer, and how many tokens the server has read.

    Args:
        settings: `api` says how the answer is built.
        answer: the parsed JSON.
        count: passages in the request.

    Returns:
        (count,) float32 scores in the order of the request, NaN where the server says null; tokens, 0 if not said.

    Raises:
        InputError: the answer is built otherwise, or lacks the score of a passage.
    """
    where, field = address(settings), _SCORES[settings.api]
    name = _LISTS[settings.api]
    entries = answer if name is None else answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(entries, list):
        raise _unreadable(settings, answer)
    scores: dict[int, float] = {}
    for entry in entries:
        try:
            index, value = entry["index"], entry[field]
            score = np.nan if value is None else float(value)
        except (KeyError, TypeError, ValueError):
            raise _unreadable(settings, entry) from None
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count or index in scores:
            raise InputError(
                f"{where} was asked about {count} passages and answers about index {index!r}"
                f"{' twice' if index in scores else ''}. Expected each index from 0 to {count - 1} once. Is "
                f"`api: {settings.api}` what this server speaks?"
            )
        scores[index] = score
    lacking = [index for index in range(count) if index not in scores]
    if lacking:
        raise InputError(
            f"{where} was asked about {count} passages and answers without index {lacking[0]}; {len(lacking)} of the "
            "scores are missing. A server may return the best passages alone: set the field of engine_args that it has "
            "for that, such as top_n."
        )
    usage = answer.get("usage") if isinstance(answer, dict) else None
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    values = np.array([scores[index] for index in range(count)], dtype=np.float64)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is no score
        return values.astype(np.float32), tokens if isinstance(tokens, int) else 0


def _unreadable(settings: TeacherSettings, found: Any) -> InputError:
    name, field = _LISTS[settings.api], _SCORES[settings.api]
    entry = f'{{"index": 0, "{field}": 1.5}}'
    expected = f'{{"{name}": [{entry}, …]}}' if name else f"[{entry}, …]"
    return InputError(
        f"{address(settings)} answers with something that is no scores ({' '.join(str(found).split())[:100]!r}). "
        f"Expected {expected}. Correct base_url, or api: one of {', '.join(_PATHS)}."
    )
