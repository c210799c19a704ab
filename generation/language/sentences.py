"""Sentences of a text, by the language it is in.

Wikimedia's sentencex knows the marks and the abbreviations of some 240 languages. English keeps a rule of its own, on
which the recorded figures of the demo rest. Thai has no mark at the end of a sentence: a space is where one breathes.
"""

from __future__ import annotations

import re

from generation.language.names import ENGLISH
from generation.language.segmentation import unwrapped

_ENGLISH_END = re.compile(r"(?<=[.!?])\s+(?=[^\W\d_]|[`*\"'(])|\n\s*\n")
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_ENDS_AT_SPACES = frozenset({"th", "lo"})


def split_sentences(text: str, language: str) -> list[str]:
    """Sentences and other paragraphs in order, without the spaces around them.

    Args:
        text: of any length.
        language: a code such as `ja`; sentencex reads one that it does not know as one that is written alike.
    """
    if language == ENGLISH:
        return [part for part in _ENGLISH_END.split(text) if part.strip()]
    import sentencex

    found: list[str] = []
    for paragraph in _PARAGRAPH_END.split(unwrapped(text)):
        for sentence in sentencex.segment(language, paragraph):
            found += sentence.split() if language in _ENDS_AT_SPACES else [sentence.strip()]
    return [sentence for sentence in found if sentence]
