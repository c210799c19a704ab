"""Answers that run away: the same words over and over, endless digits, several queries instead of one."""

from __future__ import annotations

import re
from collections import Counter

from generation.cleaning.words import contains, words

_CHARACTERS = re.compile(r"(.{1,12}?)\1{4,}")  # scripts without spaces, and syllables
_QUESTIONS = re.compile(r"[^?？]*[^\W\d_][^?？]*[?？]+")
_MARKS = re.compile(r"(?:^|\s)\(?(\d{1,2})[.)]\s+\S")
LEAST_NUMBERS = 6  # and half of all words
LEAST_DIGITS = 12  # beside letters: part numbers, standards and dates are shorter


def is_loop(query: str, passage: str) -> bool:
    """Whether a query says the same words again and again, as its passage does not."""
    said = words(query)
    for length in range(1, len(said) // 2 + 1):
        wanted = 4 if length == 1 else 2  # "cha cha cha" is a dance
        for start in range(len(said) - wanted * length + 1):
            unit = said[start : start + length]
            if said[start : start + wanted * length] == unit * wanted and not contains(passage, " ".join(unit * 2)):
                return True
    if len(said) >= 8 and 2 * len(set(said)) <= len(said):
        return True
    terms = [" ".join(words(term)) for term in re.split(r"[,;、，]", query)]
    if len(terms) >= 4 and 3 * len(set(terms)) <= 2 * len(terms):
        return True
    run = _CHARACTERS.search(re.sub(r"\s", "", query))
    return run is not None and run.group(1).isalpha() and run.group() not in re.sub(r"\s", "", passage)


def repeats_lines(text: str) -> bool:
    """Whether an answer of several lines says one of them three times."""
    lines = Counter(line.strip() for line in text.splitlines() if any(letter.isalnum() for letter in line))
    return max(lines.values(), default=0) >= 3


def is_digits(query: str, passage: str) -> bool:
    """Whether a query is a number, or mostly digits, that its passage does not hold."""
    said = words(query)
    numbers = sum(not any(letter.isalpha() for letter in word) for word in said)
    if numbers >= LEAST_NUMBERS and 2 * numbers >= len(said):
        return not contains(passage, query)
    letters = sum(letter.isalpha() for letter in query)
    digits = sum(letter.isdigit() for letter in query)
    if 2 * letters >= digits or (letters and digits < LEAST_DIGITS):
        return False
    return not contains(passage, query)


def is_several(query: str, asked_list: bool) -> bool:
    """Whether several questions, or a numbered list, stand in one line."""
    questions = [question for question in _QUESTIONS.findall(query) if len(question.split()) > 2 or len(question) > 20]
    if len(questions) > 1:
        return True
    return not asked_list and [int(mark) for mark in _MARKS.findall(query)][:2] in ([1, 2], [2, 3])
