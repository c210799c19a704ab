"""Stop words: words that carry no subject, of English and of the languages that stopwordsiso knows."""

from __future__ import annotations

from functools import cache

from generation.language.names import ENGLISH

# Fewer than stopwordsiso has, whose list takes words such as "computer", "system" and "value"
_ENGLISH = """
    a about after all also an and any are as at be because been before being but by can could did do does each
    either for from had has have he her here his how if in into is it its just may might more most must no nor not
    of on one only or other our out over own same she should so some such than that the their them then there
    these they this those through to too under up use used uses using very was we were what when where which while
    who will with would you your
"""


@cache
def stop_words(language: str) -> frozenset[str]:
    """Stop words of a language, by its code, in lower case; none for a language without a list."""
    if language == ENGLISH:
        return frozenset(_ENGLISH.split())
    import stopwordsiso

    return frozenset(stopwordsiso.stopwords(language)) if stopwordsiso.has_lang(language) else frozenset()
