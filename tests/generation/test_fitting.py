"""Passages cut to a context: whole sentences, as many as fit."""

from __future__ import annotations

import pytest

from generation.engines.base import Request
from generation.engines.fitting import fitted, half


def request(text: str) -> Request:
    return Request("p:claim:0", "p", "Title", text, "claim", 0)


def words(one: Request) -> int:
    """Stands for a tokenizer: a token a word, and ten of the prompt."""
    return 10 + len(one.text.split())


def by_hand(text: str, ends: list[int], most: int) -> str | None:
    """The longest beginning that ends at one of `ends` and has at most so many words."""
    fitting = [text[:end] for end in ends if len(text[:end].split()) <= most]
    return fitting[-1] if fitting else None


TEXT = 'One two three. Four five? "Six seven." Eight v1.5 nine ten! Eleven'
ENDS = [TEXT.index(end) + len(end) for end in ("three.", "five?", 'seven."', "ten!")]


@pytest.mark.parametrize("most", range(3, 12))
def test_as_many_whole_sentences_stay_as_fit(most):
    cut = fitted(request(TEXT), 1000, 10 + most, words)
    assert cut is not None
    assert cut.text == by_hand(TEXT, ENDS, most)
    assert (cut.unit, cut.title) == ("p:claim:0", "Title")


def test_words_stay_where_no_sentence_fits_and_nothing_where_the_prompt_alone_is_too_long():
    assert fitted(request(TEXT), 1000, 12, words).text == "One two"
    assert fitted(request(TEXT), 1000, 10, words) is None
    assert fitted(request("seventeen " * 50), 1000, 17, words).text == " ".join(["seventeen"] * 7)


def test_a_text_without_spaces_is_cut_by_characters_and_one_in_chinese_at_its_full_stop():
    def characters(one: Request) -> int:
        return len(one.text)

    assert len(fitted(request("x" * 500), 1000, 100, characters).text) == 96
    assert fitted(request("水在零度结冰。冰比水轻。"), 1000, 9, characters).text == "水在零度结冰。"


def test_what_the_recipe_cuts_anyway_is_not_looked_at():
    cut = fitted(request(TEXT), ENDS[1] + 3, 12 + 10, words)
    assert cut.text == TEXT[: ENDS[1]]


def test_half_of_a_passage_ends_with_a_sentence_where_there_is_one():
    assert half(request(TEXT), 1000).text == "One two three. Four five?"
    assert half(request("one two three four five six seven"), 1000).text == "one two three"
    assert half(request("x" * 100), 1000).text == "x" * 50
    assert half(request("x" * 20), 1000) is None
