"""Tokenizers of BM25: stemmed words of a language, or character n-grams for languages without spaces between words.

A word is a run of letters, digits, underscores and combining marks; the vowel signs of Hindi and Thai are such marks.
Stemmers are those of Snowball, by PyStemmer. Stop words are left out where bm25s has a list of the language.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from distill.settings.languages import NO_STEMMER

if TYPE_CHECKING:
    from bm25s.tokenization import Tokenizer

NGRAMS = (2, 3)  # characters in an n-gram
_ASCII_WORDS = re.compile(r"\w\w+", re.ASCII)
STOP_WORDS_OF = {"porter": "english", "dutch_porter": "dutch"}  # other stemmers of a language


@dataclass(frozen=True)
class TextSettings:
    """How BM25 reads texts.

    Attributes:
        language: of the words; an algorithm of PyStemmer, or `none` for words as they are.
        ngrams: whether texts are cut into character n-grams, without stemmer and stop words.
    """

    language: str = "english"
    ngrams: bool = False

    def name(self) -> str:
        """A name that differs where the tokens do."""
        return "ngrams" if self.ngrams else self.language

    def tokenizer(self, stop_words: bool = True) -> Tokenizer:
        """A new tokenizer with an empty vocabulary; `stop_words` says whether stop words are left out."""
        from bm25s.tokenization import Tokenizer

        if self.ngrams:
            return Tokenizer(splitter=character_ngrams, stopwords=None)
        if self.language == NO_STEMMER:
            return Tokenizer(splitter=words, stopwords=None)
        import Stemmer

        stop = _stop_words(self.language) if stop_words else None
        return Tokenizer(splitter=words, stemmer=Stemmer.Stemmer(self.language), stopwords=stop)


def words(text: str) -> list[str]:
    """The words of a text that have two characters or more."""
    # ASCII has no marks, and the long list of them takes most of the time of an index
    return (_ASCII_WORDS if text.isascii() else _words()).findall(text)


def character_ngrams(text: str) -> list[str]:
    """All n-grams of two and of three characters inside the words of a text; a word of one character is one token.

    Example: "東京都。A" has 東京, 京都, 東京都 and A.
    """
    tokens = []
    for word in _runs().findall(text):
        tokens += [word[start : start + size] for size in NGRAMS for start in range(len(word) - size + 1)] or [word]
    return tokens


def _stop_words(language: str) -> str | None:
    """The name of bm25s's list of stop words for a language; None if there is none."""
    from bm25s.tokenization import Tokenizer

    name = STOP_WORDS_OF.get(language, language)
    try:
        Tokenizer(stopwords=name)
    except ValueError:
        return None
    return name


@cache
def _marks() -> str:
    """All combining marks, as a part of a regular expression's set."""
    points = range(sys.maxunicode + 1)
    return "".join(re.escape(chr(point)) for point in points if unicodedata.category(chr(point)).startswith("M"))


@cache
def _runs() -> re.Pattern[str]:
    """A letter, digit or underscore, and what follows it in the word."""
    return re.compile(rf"\w[\w{_marks()}]*")


@cache
def _words() -> re.Pattern[str]:
    """As `_runs`, of two characters at least, as in bm25s and scikit-learn."""
    return re.compile(rf"\w[\w{_marks()}]+")
