"""What a language model wrote becomes a query, or the reason why it is none. Nothing is repaired by guessing."""

from __future__ import annotations

import re
import unicodedata

COPIED_WORDS = 8  # shorter wordings coincide with the passage's by chance, or because they are its title

_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_THOUGHT_END = re.compile("</think>", re.IGNORECASE)
# control characters, and what stands for bytes that are no text: answers are cut anywhere
_NO_TEXT = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufffd]")
_BOLD = re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1")
_MARKER = re.compile(r"^(?:[-*•–#>]+\s+|\(?\d{1,2}[.)]\s+)")
_LABEL = re.compile(
    r"^(?:(?:web |search |web search |possible |sample |example )*"
    r"(?:question|claim|title|keywords?|key words|search|query|queries|answer|output))\s*(?:\d+)?\s*:\s*",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(r"^(?:sure|certainly|of course|okay|ok|here(?:'s| is| are)|based on)\b.*:$", re.IGNORECASE)
_QUOTES = dict(zip("\"'“”„‘«»`*", "\"'””“’»«`*", strict=True))
_REFUSAL = re.compile(
    r"^(?:i'?m sorry|i am sorry|sorry,|i apologi[sz]e|as an ai\b|as a language model|"
    r"(?:unfortunately, )?i(?:'m| am)? ?(?:cannot|can't|can not|could not|couldn't|unable to|not able to) "
    r"(?:create|write|generate|provide|help|assist|fulfil|fulfill|answer|produce|determine|comply|find|do that)\b)",
    re.IGNORECASE,
)
_MENTIONS_PASSAGE = re.compile(
    r"\baccording to (?:the|this) (?:\w+ )?(?:passage|text|excerpt)\b|"
    r"\b(?:the|this) (?:given |above |provided )?passage "
    r"(?:is about|describes?|discuss(?:es)?|mentions?|says?|states?|explains?|provides?|talks?|does not|doesn't)\b|"
    r"\b(?:described|discussed|mentioned|stated|given|provided) in (?:the|this) (?:\w+ )?(?:passage|text|excerpt)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")


def clean(written: str, passage: str) -> tuple[str | None, str | None]:
    """Takes the query out of what a model wrote.

    Args:
        written: the model's answer.
        passage: title and text that the prompt showed.

    Returns:
        The query and None, or None and the reason why there is none: `unfinished_thought`, `empty`, `refusal`,
        `mentions_passage`, `copies_passage`.
    """
    text = _NO_TEXT.sub("", unicodedata.normalize("NFKC", _THOUGHT.sub("\n", written)))
    text = _THOUGHT_END.split(text)[-1]  # a template may have begun the thought in the prompt
    if "<think>" in text.lower():
        return None, "unfinished_thought"
    query = _first_line(text)
    if not _WORD.search(query):
        return None, "empty"
    plain = query.replace("’", "'")
    if _REFUSAL.search(plain):
        return None, "refusal"
    if _MENTIONS_PASSAGE.search(plain):
        return None, "mentions_passage"
    if _is_copied(query, passage):
        return None, "copies_passage"
    return query, None


def _first_line(text: str) -> str:
    """The first line that says something, without bullets, labels, quotation marks and emphasis."""
    for line in text.splitlines():
        stripped = _strip(line)
        if _WORD.search(stripped) and not _PREAMBLE.match(stripped):
            return stripped
    return ""


def _strip(line: str) -> str:
    line = _BOLD.sub(r"\2", " ".join(line.split()))
    before = None
    while line != before:
        before = line
        line = _LABEL.sub("", _MARKER.sub("", line)).strip()
        for opening, closing in _QUOTES.items():
            # both ends, and none in between, so that `"a" and "b"` stays whole
            inner = line[len(opening) : len(line) - len(closing)]
            if len(line) > len(opening + closing) and line == opening + inner + closing and opening not in inner:
                line = inner.strip()
    return line


def _is_copied(query: str, passage: str) -> bool:
    words = _WORD.findall(query.lower())
    if len(words) < COPIED_WORDS:
        return False
    return f" {' '.join(words)} " in f" {' '.join(_WORD.findall(passage.lower()))} "
