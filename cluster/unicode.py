"""Text that UTF-8 can hold. JSON can contain half of a surrogate pair; tokenizers and Arrow tables refuse it."""

from __future__ import annotations


def valid_utf8(text: str) -> str:
    """The text with every half of a surrogate pair replaced by a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def is_valid_utf8(text: str) -> bool:
    """Whether UTF-8 can hold the text unchanged."""
    return valid_utf8(text) == text
