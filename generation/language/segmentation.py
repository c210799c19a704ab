"""Words where scripts put no spaces between them: Chinese, Japanese, Thai, and some of their neighbours.

BudouX cuts Chinese, Japanese and Thai into phrases of about a word; which of the three it is, the letters say. Khmer,
Lao, Burmese and Tibetan are cut at every letter with its marks, so that at least their lengths mean something.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

import regex

if TYPE_CHECKING:
    from budoux import Parser

_KANA = r"\p{Hiragana}\p{Katakana}ー"
_SPACELESS = rf"\p{{Han}}{_KANA}\p{{Thai}}\p{{Khmer}}\p{{Lao}}\p{{Myanmar}}\p{{Tibetan}}"
_RUNS = regex.compile(rf"[{_SPACELESS}]+|[\w--[{_SPACELESS}]]+", regex.V1)
_HAS_SPACELESS = regex.compile(f"[{_SPACELESS}]")
_HAS_KANA = regex.compile(f"[{_KANA}]")
_HAS_HAN = regex.compile(rf"\p{{Han}}|[{_KANA}]")
_HAS_THAI = regex.compile(r"\p{Thai}")
_WRAPPED = regex.compile(rf"(?<=[\p{{Han}}{_KANA}、。，！？；：])\s*\n\s*(?=[\p{{Han}}{_KANA}])")
_CHUNKS = regex.compile(r"\S+\s*")
_ENDINGS = regex.compile(r"^\p{Hiragana}+|\p{Hiragana}+$")


def is_spaceless(text: str) -> bool:
    """Whether a text has letters of a script without spaces between words."""
    return _HAS_SPACELESS.search(text) is not None


def cut_runs(runs: Iterable[str], text: str) -> list[str]:
    """Runs of letters, those of spaceless scripts cut into words.

    Args:
        runs: found in the text, in order.
        text: all of it; kana anywhere in it make its characters Japanese.
    """
    if not is_spaceless(text):
        return list(runs)
    japanese = _HAS_KANA.search(text) is not None
    pieces = (piece for run in runs for piece in (_RUNS.findall(run) if is_spaceless(run) else [run]))
    return [word for piece in pieces for word in _cut(piece, japanese)]


def characters(words: Iterable[str]) -> str:
    """Words with spaces between them; of spaceless scripts characters, so that all ways to cut them look alike."""
    return " ".join(" ".join(word) if is_spaceless(word) else word for word in words)


def pieces(text: str) -> list[str]:
    """A text in pieces of about a word, with the punctuation and the space after it; joined, they are the text."""
    chunks = _CHUNKS.findall(text)
    if not is_spaceless(text):
        return chunks
    japanese = _HAS_KANA.search(text) is not None
    return [piece for chunk in chunks for piece in _cut(chunk, japanese)]


def term(word: str) -> str:
    """A word without the endings that Japanese writes in hiragana: 堆肥 of 堆肥が; nothing of a word of hiragana."""
    return _ENDINGS.sub("", word)


def unwrapped(text: str) -> str:
    """A text without the line breaks inside of Chinese and Japanese sentences, where a space would be none."""
    return _WRAPPED.sub("", text)


def _cut(text: str, japanese: bool) -> list[str]:
    if _HAS_HAN.search(text):
        return _parser("ja" if japanese else "zh").parse(text)
    if _HAS_THAI.search(text):
        return _parser("th").parse(text)
    return regex.findall(r"\X", text) if is_spaceless(text) else [text]


@cache
def _parser(language: str) -> Parser:
    import budoux

    loaders = {
        "ja": budoux.load_default_japanese_parser,
        "zh": budoux.load_default_simplified_chinese_parser,
        "th": budoux.load_default_thai_parser,
    }
    return loaders[language]()
