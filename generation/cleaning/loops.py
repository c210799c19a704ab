"""Answers that run away: the same words over and over, endless digits, several queries instead of one."""

from __future__ import annotations

import re
from collections import Counter

from generation.cleaning.words import FUNCTION_WORDS, contains, words

_CHARACTERS = re.compile(r"(.{1,12}?)\1{4,}")  # scripts without spaces, and syllables
_QUESTION_END = re.compile(r"[?？]+")
_MARKS = re.compile(r"(?:^|\s)\(?(\d{1,2})[.)]\s+\S")
_COMPARES = re.compile(r"\b(?:vs|versus|or|than|compare[sd]?|differ|differs|difference|between)\b", re.IGNORECASE)
LEAST_WORDS = 8
LEAST_TERMS = 3  # of a list
LEAST_RUN = 3  # words
LEAST_NUMBERS = 6  # and half of all words
TELLING_DIGITS = 4  # of a number that stands alone, such as a year
LEAST_DIGITS = 12  # beside letters: part numbers, standards and dates are shorter


def is_loop(query: str, passage: str) -> bool:
    """Whether a query says the same words again and again, as its passage does not."""
    run = _CHARACTERS.search(re.sub(r"\s", "", query))
    if run is not None and run.group(1).isalpha() and run.group() not in re.sub(r"\s", "", passage):
        return True
    terms = [" ".join(words(term)) for term in re.split(r"[,;]\s|[、，]", query)]
    if len(terms) >= LEAST_TERMS and len(set(terms)) > 1:  # a list: its terms share words, and may
        return 4 * len(set(terms)) < 3 * len(terms) or _repeats_at_once(words(query), passage, shortest=1, times=4)
    said = words(query)
    if len(said) >= LEAST_WORDS and 2 * len(set(said)) <= len(said):
        telling = [word for word in said if word not in FUNCTION_WORDS]  # a long sentence repeats the others
        if 2 * len(set(telling)) <= len(telling):
            return True
    if len(said) > 2 and len(set(said)) == 1 and not contains(passage, query):
        return True
    # "cha cha cha" is a dance
    if _repeats_at_once(said, passage, shortest=1, times=4) or _repeats_at_once(said, passage, shortest=2, times=2):
        return True
    return _repeats_later(said) and not _COMPARES.search(query)


def _repeats_at_once(said: tuple[str, ...], passage: str, shortest: int, times: int) -> bool:
    """Whether a run of at least `shortest` words stands so many times in a row, and not even twice in the passage."""
    for length in range(shortest, len(said) // times + 1):
        for start in range(len(said) - times * length + 1):
            unit = said[start : start + length]
            if said[start : start + times * length] == unit * times and not contains(passage, " ".join(unit * 2)):
                return True
    return False


def _repeats_later(said: tuple[str, ...]) -> bool:
    """Whether a run of words stands in a query twice and makes most of it."""
    for length in range(len(said) // 2, LEAST_RUN - 1, -1):
        first: dict[tuple[str, ...], int] = {}
        for start in range(len(said) - length + 1):
            at = first.setdefault(said[start : start + length], start)
            if start - at >= length:
                return 2 * length >= 0.6 * len(said)
    return False


def repeats_lines(text: str) -> bool:
    """Whether an answer of several lines says one of them three times."""
    lines = Counter(line.strip() for line in text.splitlines() if any(letter.isalnum() for letter in line))
    return max(lines.values(), default=0) >= 3


def is_digits(query: str, passage: str) -> bool:
    """Whether a query is a number that tells nothing, or one, or mostly digits, that its passage does not hold."""
    said = words(query)
    numbers = sum(not any(letter.isalpha() for letter in word) for word in said)
    if numbers >= LEAST_NUMBERS and 2 * numbers >= len(said):
        return not contains(passage, query)
    letters = sum(letter.isalpha() for letter in query)
    digits = sum(letter.isdigit() for letter in query)
    if not letters and digits < TELLING_DIGITS:
        return True  # it stands in many passages
    if 2 * letters >= digits or (letters and digits < LEAST_DIGITS):
        return False
    return not contains(passage, query)


def is_several(query: str, asked_list: bool) -> bool:
    """Whether several questions, or a numbered list, stand in one line."""
    asked = _QUESTION_END.split(query)[:-1]
    questions = [one for one in asked if len(words(one)) > 2 or len(one) > 20]
    if len(questions) > 1:
        return True
    return not asked_list and [int(mark) for mark in _MARKS.findall(query)][:2] in ([1, 2], [2, 3])
