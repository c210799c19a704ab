"""Takes the query out of what stands around it: thoughts, special tokens, preambles, labels, bullets, quotation marks.

Nothing is repaired by guessing: a text is cut only where its own marks say that the query begins or ends.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass

from generation.cleaning.asked import Asked
from generation.cleaning.words import FUNCTION_WORDS, words
from generation.special_tokens import NAMES as SPECIAL_NAMES

LIST_WORDS = 8  # a longer line of a keyword list is a sentence
MOST_LINES = 12  # of a keyword list

_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_THOUGHT_END = re.compile("</think>", re.IGNORECASE)
# control characters, and what stands for bytes that are no text: answers are cut anywhere
_NO_TEXT = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufffd]")
# what may stand before an answer: the beginning of the model's own turn
_TURN = re.compile(
    r"^\s*(?:(?:<s>|<bos>|\[BOS\]|\[INST\]|<start_of_turn>|"
    r"<\|(?:im_start|startoftext|begin_of_text|assistant|start_header_id|end_header_id)\|>)"
    r"(?!\s*(?:user|system)\b)\s*(?:(?:assistant|model)\b:?\s*)?)+",
    re.IGNORECASE,
)
_FENCE = re.compile(r"^\s*```\w*\s*$", re.MULTILINE)
_BOLD = re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1")
_MARKER = re.compile(r"^(?:[-*•–#>]+\s+|\(?\d{1,2}[.)]\s+|\(?[a-h]\)\s+)")
_LETTERED = re.compile(r"^\s*\(?A[.)]\s+\S.*\n\s*\(?B[.)]\s+\S")
_LETTER = re.compile(r"^\s*\(?[A-H][.)]\s+", re.MULTILINE)
_NAMES = (
    r"question|claim|factual statement|statement|title|keywords?|key words?|search terms?|search|query|queries|answer|"
    r"output|response|result|"
    # German, French, Spanish
    r"frage|behauptung|titel|stichwörter|suchanfrage|antwort|affirmation|titre|mots[- ]clés|requête|réponse|pregunta|"
    r"afirmación|título|palabras clave|consulta|respuesta"
)
_LABEL = re.compile(
    r"^(?:(?:an?|the|my|your|one|web|web search|search|possible|sample|example|suggested|new|generated)\s+)*"
    rf"(?:{_NAMES})\s*(?:\d+)?\s*:\s*",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"^(?!.*\b(?:rewritten|version|summary|paraphrase|explanation|breakdown)\b)(?:sure|certainly|of course|"
    r"absolutely|okay|ok|great|here(?:'s|’s| is| are)|based on|gerne|natürlich|hier (?:ist|sind)|bien sûr|voici|"
    r"¡?claro|por supuesto|aquí (?:está|tienes?))\b[^:]*:$",
    re.IGNORECASE,
)
_HERE_IS = re.compile(
    r"^(?:(?:sure|certainly|of course|absolutely|okay|ok|great)[,!.]?\s+)?"
    r"here(?:'s|’s| is| are)\s+(?:an?|the|one|some|my|your|another|two|three|\d+)\b[^:]{0,80}:\s*(?=\S)",
    re.IGNORECASE,
)
_IT_IS = re.compile(
    r"^(?:the|a|an|one|my|this|die|der|eine?|la|le|el|une?|una)\s+(?:\w+\s+){0,2}?"
    rf"(?:{_NAMES})\s+(?:\w+\s+){{0,8}}?(?:is|are|reads|would be|could be|can be|might be|should be|may be|"
    r"lautet|lauten|ist|est|es)"
    r"\s*(?::\s*|(?=[\"“«].*[\"”»]\.?$))",
    re.IGNORECASE,
)
_BEFORE_QUOTE = re.compile(r"^(?:the|a|an)\s+(?=[\"“«][^\"“”«»]*[\"”»]\.?$)", re.IGNORECASE)
_AFTER_QUOTE = re.compile(r"^([\"“«].*[\"”»])[.,;]$")
_QUOTES = dict(zip("\"'“”„‘«»`*", "\"'””“’»«`*", strict=True))
_SENTENCE_END = re.compile(r"(?:[.!?][\"”’')\]]*(?=\s+[\"“‘'(\[]?[^\W\d_a-z])|[。！？؟])")
_ABBREVIATION = re.compile(
    r"\b(?:vs|et al|al|e\.g|i\.e|etc|cf|dr|mr|mrs|ms|prof|st|no|nos|fig|figs|eq|ca|approx|[a-z])$", re.I
)
_LIST_MARK = re.compile(r"(?:^|(?<=[\s;,]))\(?\d{1,2}[.)]\s+")
_WORD = re.compile(r"\w")


@dataclass(frozen=True)
class Taken:
    """The query as it stands in an answer; `is_open` says that the token limit may have cut it."""

    text: str
    is_open: bool


def plain_text(written: str) -> str | None:
    """The answer without thoughts and characters that are no text; None for a thought without an end."""
    text = _NO_TEXT.sub("", unicodedata.normalize("NFKC", _THOUGHT.sub("\n", written)))
    text = _THOUGHT_END.split(text)[-1]  # a template may have begun the thought in the prompt
    return None if "<think>" in text.lower() else text


def first_turn(text: str, passage: str) -> tuple[str, bool]:
    """What stands before the first special token, and whether there was one. A passage may speak of such tokens."""
    start = _TURN.match(text)
    if start and start.group().strip() not in passage:
        text = text[start.end() :]
    for token in SPECIAL_NAMES.finditer(text):
        if token.group() not in passage:
            return text[: token.start()], True
    return text, bool(start)


def out_of_json(text: str) -> tuple[str, bool]:
    """The one string of a JSON answer; else the text as it is, and whether it is JSON."""
    inner = _FENCE.sub("", text).strip()
    if not inner.startswith(("{", "[")):
        return _FENCE.sub("", text), False
    try:
        value = json.loads(inner)
    except (ValueError, RecursionError):
        return inner, re.match(r"""^[\[{]\s*["'\[{]""", inner) is not None
    values = list(value.values()) if isinstance(value, dict) else value
    if isinstance(values, list) and len(values) == 1 and isinstance(values[0], str):
        return values[0], False
    return inner, True


def take(text: str, asked: Asked) -> Taken:
    """The first line that says something; of a keyword list all lines, as one."""
    if _LETTERED.match(text):
        text = _LETTER.sub("", text)
    lines = [line for line in text.splitlines() if _WORD.search(line)]
    stripped = [strip(line, asked.label) for line in lines]
    said = [number for number, line in enumerate(stripped) if _WORD.search(line) and not _PREAMBLE.match(line)]
    if not said:
        return Taken("", False)
    first = said[0]
    stop = first + 1
    if asked.is_list and _is_item(stripped[first]):
        while stop < min(len(lines), first + MOST_LINES) and _is_item(stripped[stop]) and not _is_named(lines[stop]):
            stop += 1
    is_open = asked.is_cut and stop == len(lines) and not text.endswith(("\n", "\r"))
    if is_open and stop - first > 1:  # the last term of a list may be cut; the others are not
        stop, is_open = stop - 1, False
    found = stripped[first:stop]
    return Taken(found[0] if len(found) == 1 else " ".join(line.rstrip(" ,;.") for line in found), is_open)


def completed(taken: Taken, asked: Asked) -> Taken:
    """A query that the token limit cut, up to the end of its last whole sentence or term; still open if it has none."""
    if not taken.is_open or re.search(r"[.!?。！？؟][\"”’')\]]*$", taken.text):
        return Taken(taken.text, False)
    ends = [
        match.end()
        for match in _SENTENCE_END.finditer(taken.text)
        if not _ABBREVIATION.search(taken.text[: match.start()])
    ]
    if ends:
        return Taken(taken.text[: ends[-1]].strip(), False)
    if asked.is_list:
        terms = re.split(r"([,;](?=\s)|[、，])", taken.text)
        kept = "".join(terms[:-2]).strip() if len(terms) >= 5 else taken.text.rpartition(" ")[0]
        if len(kept.split()) >= 3 and (len(terms) >= 5 or not is_sentence(kept)):
            return Taken(kept.rstrip(" ,;"), False)
    return taken


def strip(line: str, label: str = "") -> str:
    """A line without what marks it: bullets, labels, quotation marks, emphasis, words that only announce it."""
    line = _BOLD.sub(r"\2", " ".join(line.split()))
    named = re.compile(rf"^{re.escape(label)}\s*:\s*", re.IGNORECASE) if label else _LABEL
    before = None
    while line != before:
        before = line
        line = named.sub("", _LABEL.sub("", _MARKER.sub("", line)))
        line = _IT_IS.sub("", _HERE_IS.sub("", line)).strip()
        line = _BEFORE_QUOTE.sub("", line)
        line = _AFTER_QUOTE.sub(r"\1", line)
        for opening, closing in _QUOTES.items():
            # both ends, and none in between, so that `"a" and "b"` stays whole
            inner = line[len(opening) : len(line) - len(closing)]
            if len(line) > len(opening + closing) and line == opening + inner + closing and opening not in inner:
                line = inner.strip()
    return line


def unnumbered(text: str) -> str:
    """A keyword list without the numbers of its items: "1. pears 2. storage"."""
    return " ".join(_LIST_MARK.sub("", text).split()) if len(_LIST_MARK.findall(text)) > 1 else text


def is_sentence(text: str) -> bool:
    """Whether so many function words stand in a text that it is no list of terms; known for English."""
    said = words(text)
    return 4 * sum(word in FUNCTION_WORDS for word in said) >= len(said)


def _is_item(line: str) -> bool:
    return 0 < len(line.split()) <= LIST_WORDS and not line.endswith((".", "?", "!", ":"))


def _is_named(line: str) -> bool:
    """Whether a line begins with a label, so that it is no further item."""
    return re.match(r"^\W*[^\W\d_][\w ]{1,20}:\s", line) is not None
