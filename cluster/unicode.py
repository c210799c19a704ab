"""Text that UTF-8 can hold: JSON can spell half of a surrogate pair, which no tokenizer and no table takes."""

from __future__ import annotations


def valid_utf8(text: str) -> str:
    """The text with a question mark for every half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8")


def is_valid_utf8(text: str) -> bool:
    """Whether UTF-8 can hold it as it is."""
    return valid_utf8(text) == text
