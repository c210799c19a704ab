"""How BM25 reads a language: with its stemmer, in words as they are, or in n-grams of characters."""

from __future__ import annotations

ENGLISH = "en"
# Snowball's algorithm of each language, by its code
STEMMERS = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish", "fr": "french", "ga": "irish",
    "hi": "hindi", "hu": "hungarian", "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian",
    "ne": "nepali", "nl": "dutch", "no": "norwegian", "pl": "polish", "pt": "portuguese", "ro": "romanian",
    "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil", "tr": "turkish",
}  # fmt: skip
# No spaces between words, or, in Korean, none before the endings of words, for which there is no stemmer
IN_NGRAMS = frozenset({"zh", "ja", "ko", "th", "lo", "km", "my"})
NO_STEMMER = "none"  # words as they are
