"""A passage that is longer than a model's context, cut at the end of a sentence so that its prompt fits."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace

from generation.engines.base import Request

_SENTENCE_END = re.compile(r"[.!?…]+[\"'’”)\]]*(?=\s)|[。！？]+[」』”]*|(?=\n\s*\n)")
_WORD_END = re.compile(r"(?<=\S)(?=\s)")
_STEP = 16  # characters, in a text without spaces


def fitted(request: Request, characters: int, longest: int, length: Callable[[Request], int]) -> Request | None:
    """The request with as much of its passage as fits: whole sentences, or the words of the first one.

    Args:
        request: whose prompt is too long.
        characters: of the passage that a prompt shows at most.
        longest: tokens that a prompt may have.
        length: tokens of the prompt of a request.

    Returns:
        None if nothing of the passage fits.
    """
    text = request.text.strip()[:characters]
    for ends in (_ends(_SENTENCE_END, text), _ends(_WORD_END, text), list(range(_STEP, len(text), _STEP))):
        cut = bisect_right(ends, longest, key=lambda end: length(replace(request, text=text[:end])))
        if cut:
            return replace(request, text=text[: ends[cut - 1]])
    return None


def half(request: Request, characters: int) -> Request | None:
    """The request with the first half of its passage, up to the end of a sentence where there is one; None: too short.

    For servers, which say that a prompt is too long, and not by how much.
    """
    text = request.text.strip()[:characters]
    for pattern in (_SENTENCE_END, _WORD_END):
        ends = [end for end in _ends(pattern, text) if end <= len(text) // 2]
        if ends:
            return replace(request, text=text[: ends[-1]])
    return replace(request, text=text[: len(text) // 2]) if len(text) >= 2 * _STEP else None


def _ends(pattern: re.Pattern[str], text: str) -> list[int]:
    return [match.end() for match in pattern.finditer(text) if match.end()]
