"""Which language a short text is in, as far as its script and its commonest words tell.

Queries are too short for statistics of letters, and most of them are names and terms. So a text is said to be in
another language only where several of its words belong to that language and none to the expected one.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from generation.cleaning.words import words
from generation.language.names import language_code

_LATIN = "LATIN"
_SCRIPTS: dict[str, tuple[str, ...]] = {
    "zh": ("CJK",), "ja": ("CJK", "HIRAGANA", "KATAKANA"), "ko": ("HANGUL", "CJK"),
    "ru": ("CYRILLIC",), "uk": ("CYRILLIC",), "bg": ("CYRILLIC",), "sr": ("CYRILLIC", _LATIN),
    "ar": ("ARABIC",), "fa": ("ARABIC",), "ur": ("ARABIC",), "he": ("HEBREW",), "el": ("GREEK",),
    "hi": ("DEVANAGARI",), "bn": ("BENGALI",), "te": ("TELUGU",), "ta": ("TAMIL",), "th": ("THAI",),
}  # fmt: skip
_WRITTEN_LIST = {
    "en": """
        the of and to in is that for it with as was on are be by this from at or an a i not have has how what why
        when which who where do does can should between into than their its if you my we there after without about
    """,
    "de": """
        der die das und ist nicht ein eine einen einem einer den dem des von mit für auf wie was warum wann welche
        welcher welches wo wer kann können wird werden sind bei nach zu zur zum sich im am auch oder aber wenn ich
        man aus über durch ohne zwischen soll sollte hat haben es sie er als wurde leider
    """,
    "fr": """
        le la les un une des du de et est pas ne que qui dans pour par sur avec sans comment pourquoi quand quel
        quelle quels quelles où ce cette ces son sa ses il elle on je vous nous au aux plus ou mais sont peut être
        se
    """,
    "es": """
        el la los las un una unos unas de del es no que en para por con sin cómo qué cuál cuáles cuándo dónde quién
        al se su sus lo le les como más pero son puede está este esta estos ser ha han yo entre sobre si
    """,
    "it": """
        il lo la gli le un una di del della dei delle è non che in per con senza come perché quando quale quali dove
        chi al alla si suo sua ma più sono può essere questo questa tra fra da dal nel nella
    """,
    "pt": """
        os as um uma de do da dos das é não que em para por com sem como quando qual quais onde quem ao à se seu sua
        mas mais ou são pode ser este esta entre no na nos nas pelo pela você
    """,
    "nl": """
        de het een en is niet van in op met voor door zonder hoe waarom wanneer welke waar wie wat kan kunnen wordt
        worden zijn bij naar te zich ook of maar als ik je uit over tussen dat die deze dit heeft
    """,
}
_WRITTEN = {language: frozenset(listed.split()) for language, listed in _WRITTEN_LIST.items()}
LEAST_WORDS = 2  # of another language
LEAST_SHARE = 0.3


def is_other_language(query: str, language: str, passage: str) -> bool:
    """Whether a query is surely in another language than asked for.

    Args:
        query: a short text.
        language: a code such as "en" or "de-AT"; unknown codes accept every text.
        passage: its own words count for no other language if it is in this one, since they may be names.
    """
    code = str(language_code(language))
    scripts = _SCRIPTS.get(code)
    letters = [unicodedata.name(letter, "").split(" ")[0].split("-")[0] for letter in query if letter.isalpha()]
    if not letters:
        return False
    if scripts:
        return not any(letter in scripts for letter in letters)  # names and terms stay in Latin letters anywhere
    if code not in _WRITTEN:
        return False
    if sum(letter == _LATIN for letter in letters) < 0.5 * len(letters):
        return True
    spoken = words(query)
    names = set(words(passage)) if likely_language(passage) == code else set()
    own = sum(word in _WRITTEN[code] for word in spoken)
    found = max(_count(spoken, other, code, names) for other in _WRITTEN if other != code)
    return found >= max(LEAST_WORDS, LEAST_SHARE * len(spoken)) and found > 2 * own


@lru_cache(maxsize=64)
def likely_language(text: str) -> str | None:
    """The known language that has most of its common words in a text; None if it has hardly any of them."""
    spoken = words(text)
    counts = {code: sum(word in listed for word in spoken) for code, listed in _WRITTEN.items()}
    likely = max(counts, key=counts.__getitem__)
    return likely if counts[likely] >= max(LEAST_WORDS, 0.1 * len(spoken)) else None


def _count(spoken: tuple[str, ...], language: str, expected: str, names: set[str]) -> int:
    """Words that are common in one language and not in the expected one."""
    return sum(word in _WRITTEN[language] and word not in _WRITTEN[expected] and word not in names for word in spoken)
