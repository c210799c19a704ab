"""Masks what names a person in a logged query: e-mail addresses, phone numbers and payment cards.

Most numbers in queries are something else: years, parts, errors, books. So a number is masked where little else can be
meant. Phone numbers are found by libphonenumber's matcher, which knows the numbers that each country has given out and
how they are grouped; a national number must stand in such groups, or beside a word such as "call". A card has the
length and the first digits of an issuer (ISO/IEC 7812), and its check digit is right.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from phonenumbers import PhoneNumberMatch

Personal = Literal["email", "phone", "card"]

# bounded as in RFC 5321, so that no text takes long
_EMAIL = re.compile(
    r"(?<![\w@])[\w!#$%&'*+/=?^`{|}~-][\w.!#$%&'*+/=?^`{|}~-]{0,63}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,63}"
)
# without groups, in groups of four, as American Express and Diners print it; 19 digits have a fifth group
_GROUPINGS = (
    r"\d{13,19}|\d{4}(?P<gap>[ -])\d{4}(?P=gap)\d{4}(?P=gap)\d{1,4}|\d{4}(?P<wide>[ -])\d{6}(?P=wide)\d{4,5}",
    r"\d{4}(?P<gap>[ -])(?:\d{4}(?P=gap)){3}\d{3}",
)
_NUMBERS = [re.compile(rf"(?<![\w.,+-])(?:{grouping})(?![\w-]|[.,]\d)") for grouping in _GROUPINGS]
_ISSUER = re.compile(r"4\d{12}(?:\d{3}){0,2}|5[0-8]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[0689]\d{12}|35\d{14}|6\d{15,18}")
_FEWEST_PHONE_DIGITS = 7
_FEWEST_BARE_DIGITS = 9  # of a national number that is not written in groups
_MOST_TRIES = 1000  # numbers of a text that are none; a text of nothing but numbers must not take seconds
_DIGIT = re.compile(r"\d")
_GROUPED = re.compile(r"\d[ ()/-]+\d|\d\.\d+\.\d")
_PHONE_WORD = re.compile(
    r"\b(?:(?:tele|mobile ?)?phones?|tel|call(?:s|ed|ing|er)?|mobile|fax|whatsapp|sms|"
    r"telefon\w*|handy\w*|anruf\w*|rufnummer|téléphone|appel\w*|teléfono|llam\w*|móvil|telefono|cellulare|chiam\w*)\b",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"<(?:email|phone|card)>")


def mask(text: str, kinds: Collection[Personal], regions: Iterable[str]) -> tuple[str, Counter[Personal]]:
    """Puts `<email>`, `<phone>` and `<card>` where such things stand.

    Args:
        text: NFKC-normalised.
        kinds: what is masked.
        regions: two-letter codes of the countries whose national phone numbers are known; those that begin with + and
            the country's number always are.

    Returns:
        The text, and how many of each kind were masked.
    """
    found: Counter[Personal] = Counter()
    if "email" in kinds and "@" in text:
        text, found["email"] = _EMAIL.subn("<email>", text)
    if "card" in kinds:
        text, found["card"] = _mask_cards(text)
    if "phone" in kinds and len(_DIGIT.findall(text)) >= _FEWEST_PHONE_DIGITS:
        text, found["phone"] = _mask_phones(text, regions)
    return text, +found


def is_only_masks(text: str) -> bool:
    """Whether nothing that could be searched for is left."""
    return not re.search(r"\w", _PLACEHOLDER.sub("", text))


@cache
def known_regions() -> frozenset[str]:
    """Codes of the countries and regions whose phone numbers are known."""
    from phonenumbers import SUPPORTED_REGIONS

    return frozenset(SUPPORTED_REGIONS)


def _mask_cards(text: str) -> tuple[str, int]:
    count = 0
    for numbers in _NUMBERS:
        start, cards = 0, []
        while found := numbers.search(text, start):
            is_card = _is_card(re.sub("[ -]", "", found[0]))
            cards += [found.span()] if is_card else []
            start = found.end() if is_card else found.start() + 1  # a card may begin inside of what is none
        text = _replaced(text, cards, "<card>")
        count += len(cards)
    return text, count


def _is_card(digits: str) -> bool:
    """Whether an issuer gives out such numbers, and the check digit is right; no article number (EAN-13, ISBN-13)."""
    if not _ISSUER.fullmatch(digits) or (len(digits) == 13 and _weighted(digits, (1, 3)) % 10 == 0):
        return False
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def _weighted(digits: str, weights: tuple[int, int]) -> int:
    return sum(int(digit) * weights[place % 2] for place, digit in enumerate(digits))


def _mask_phones(text: str, regions: Iterable[str]) -> tuple[str, int]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    has_word = bool(_PHONE_WORD.search(text))
    count = 0
    for region in (None, *regions):
        matches = [
            match
            for match in PhoneNumberMatcher(text, region, Leniency.STRICT_GROUPING, _MOST_TRIES)
            if _is_unmistakable(match, has_word)
        ]
        text = _replaced(text, [(match.start, match.end) for match in matches], "<phone>")
        count += len(matches)
    return text, count


def _is_unmistakable(match: PhoneNumberMatch, has_word: bool) -> bool:
    written = match.raw_string
    if written.startswith("+") or _GROUPED.search(written):
        return True
    return has_word and len(_DIGIT.findall(written)) >= _FEWEST_BARE_DIGITS


def _replaced(text: str, spans: list[tuple[int, int]], by: str) -> str:
    for start, stop in reversed(spans):
        text = text[:start] + by + text[stop:]
    return text
