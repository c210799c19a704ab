"""What an answer shares with the prompt that was sent: its examples, its instruction, its passage.

Words are compared as stems, so that a paraphrase of an example is found out too. What the passage has as well is never
counted as taken from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from generation.cleaning.language import likely_language
from generation.cleaning.words import contains, longest_run, stems, words
from generation.language.names import language_code

COPIED_WORDS = 8  # shorter wordings coincide with the passage's by chance, or because they are its title
BORROWED_STEMS = 2  # that the passage does not have: of 3,095 queries that people wrote, one has so many of an example
BORROWED_SHARE = 0.33  # of all stems of an answer, where they are fewer than those of the passage
BORROWED_RUN = 4  # words one after the other
TELLING_DIGITS = 5  # of a number
LEAST_EMPTY = 3  # words, none of which carries a subject


def is_copied(query: str, passage: str) -> bool:
    """Whether a query is a piece of its passage, word for word."""
    return len(words(query)) >= COPIED_WORDS and contains(passage, query)


def echoes(query: str, shown: Iterable[str], passage: str) -> bool:
    """Whether a query is made of one of the texts that the prompt showed, and not of the passage."""
    said, mine = words(query), stems(query)
    foreign = mine - stems(passage)
    own = len(mine) - len(foreign)
    numbers = {word for word in said if _is_telling_number(word)} - set(words(passage))
    for text in shown:
        if not numbers.isdisjoint(words(text)):
            return True
        borrowed = len(foreign & stems(text))
        if borrowed >= BORROWED_STEMS and borrowed >= own:
            return True
        if borrowed > BORROWED_STEMS and borrowed >= BORROWED_SHARE * len(mine):
            return True
        if borrowed and longest_run(said, text) >= min(BORROWED_RUN, max(len(said), 3)):
            return True
    return False


def _is_telling_number(word: str) -> bool:
    """Whether a word is a number that two texts hardly have by chance, as they have years."""
    return word.isdigit() and len(word) >= TELLING_DIGITS


def is_unrelated(query: str, passage: str, language: str | None) -> bool:
    """Whether a query shares not one stem with its passage, though both are in one language and the Latin alphabet.

    Or whether it has no word that carries a subject at all.

    Args:
        query: of which one stem would do.
        passage: title and text.
        language: code of the language that the query is in, if that was asked for.
    """
    mine, theirs = stems(query), stems(passage)
    if not mine and len(words(query)) >= LEAST_EMPTY:
        return not contains(passage, query)  # "How do they do it?" names no subject
    if not mine or len(theirs) < 10 or mine & theirs:
        return False
    if not all(_is_latin(stem) for stem in mine) or sum(map(_is_latin, theirs)) < 0.9 * len(theirs):
        return False
    spoken = likely_language(passage)
    return likely_language(query) in (None, spoken) and language_code(language) in (None, spoken)


def _is_latin(stem: str) -> bool:
    return all(letter < "\u0250" or not letter.isalpha() for letter in stem)
