"""Words of a text and their stems: what the rules on overlap and repetition count."""

from __future__ import annotations

from functools import lru_cache

import regex

from generation.language.segmentation import characters, cut_runs, is_spaceless

STEM = 5  # characters: "buckling" and "buckled" are one stem

_WORD = regex.compile(r"\w+")  # with combining marks, such as the vowels of Hindi
_APOSTROPHES = str.maketrans("’‘`", "'''")
# English words that carry no subject. Words of other languages count as content, which makes the rules milder there.
_FUNCTION_WORDS_LIST = """
    a about above after again all also although am among an and another any anybody anyone anything are as at be
    because been before being between both but by can cannot could did do does doing don done down during each either
    else ever every for from further get gets got had has have having he her here hers him his how however i if in into
    is isn it its itself just let like ll made make makes many may me might mine more most much must my never no nor not
    of off often on once one only or other others our out over own per quite rather re s same several shall she should
    since so some somebody someone something still such t than that the their theirs them then there these they thing
    things this those though through thus to too toward towards under until up upon us use used uses using ve very via
    was we were what whatever when where whether which while who whom whose why will with within without would yet you
    your yours
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS_LIST.split())


@lru_cache(maxsize=64)  # the same passage and examples are looked at by many rules
def words(text: str) -> tuple[str, ...]:
    """Words of a text in lower case, digits included; in scripts without spaces, phrases of about a word."""
    spoken = text.translate(_APOSTROPHES).casefold()
    return tuple(cut_runs(_WORD.findall(spoken), spoken))


@lru_cache(maxsize=64)
def stems(text: str) -> frozenset[str]:
    """Beginnings of the words that carry a subject, without an s at the end of short ones.

    Of a phrase in a script without spaces the pairs of its characters, since another text may cut it otherwise.
    """
    found: set[str] = set()
    for word in words(text):
        if is_spaceless(word):
            found.update(word[start : start + 2] for start in range(len(word) - 1))
        elif len(word) > 1 and word not in FUNCTION_WORDS:
            found.add((word.removesuffix("s") if len(word) > 3 else word)[:STEM])
    return frozenset(found)


def contains(text: str, part: str) -> bool:
    """Whether the words of `part` stand in `text`, one after the other."""
    return f" {characters(words(part))} " in f" {characters(words(text))} "


def longest_run(asked: tuple[str, ...], text: str) -> int:
    """Number of words of the longest run of `asked` that stands in `text`."""
    inside = f" {characters(words(text))} "
    longest = 0
    for start in range(len(asked)):
        while start + longest < len(asked) and f" {characters(asked[start : start + longest + 1])} " in inside:
            longest += 1
    return longest
