from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.cleaning import clean

PASSAGE = (
    "Storing pears\nPears keep longest just above freezing, in air that is moist and poor in oxygen, away from apples."
)


@pytest.mark.parametrize(
    ("written", "query"),
    [
        ("how long do pears keep?", "how long do pears keep?"),
        ("  how long\t do pears\u2003keep?  ", "how long do pears keep?"),
        ("\n\nhow long do pears keep?\nAnswer: months", "how long do pears keep?"),
        ('"how long do pears keep?"', "how long do pears keep?"),
        ("“how long do pears keep?”", "how long do pears keep?"),
        ("Question: how long do pears keep?", "how long do pears keep?"),
        ("**Question:** how long do pears keep?", "how long do pears keep?"),
        ('Web search query: "pear storage time"', "pear storage time"),
        ("Keywords: pear storage oxygen", "pear storage oxygen"),
        ("1. how long do pears keep?\n2. where?", "how long do pears keep?"),
        ("- *pear storage*", "pear storage"),
        ("Sure! Here is a question:\n\nhow long do pears keep?", "how long do pears keep?"),
        ("<think>The passage is about pears.</think>\n\nhow long do pears keep?", "how long do pears keep?"),
        ("The passage is about pears.\n</think>\n\nhow long do pears keep?", "how long do pears keep?"),
        ("ｐｅａｒ storage", "pear storage"),
        ("pear\x07 storage \ufffd", "pear storage"),
    ],
)
def test_the_query_is_taken_out_of_what_stands_around_it(written, query):
    assert clean(written, PASSAGE) == (query, None)


@pytest.mark.parametrize(
    "query",
    [
        '"pears" and "apples" in one room',
        "'tis the season for pears, 'twas said",
        "python **kwargs in a call",
        "1.5 degrees for pears",
        "the passage of time in storage",
        "i can't sleep after eating pears",
        "Storing pears",
        "moist and poor in oxygen",
    ],
)
def test_what_belongs_to_a_query_stays(query):
    assert clean(query, PASSAGE) == (query, None)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", "empty"),
        (" \n ?! \n", "empty"),
        ("Query:", "empty"),
        ("Here are some keywords:", "empty"),
        ("<think>Well, the passage", "unfinished_thought"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I’m unable to write a question for it.", "refusal"),
        ("As an AI, I have no taste.", "refusal"),
        ("What does the passage say about pears?", "mentions_passage"),
        ("According to the passage, how long do pears keep?", "mentions_passage"),
        ("The passage describes how pears are stored", "mentions_passage"),
        ("Which fruit is mentioned in the text?", "mentions_passage"),
        ("Pears keep longest, just above freezing: in air that is moist", "copies_passage"),
    ],
)
def test_what_is_no_query_gets_a_reason(written, reason):
    text, found = clean(written, PASSAGE)
    assert (text, found) == (None, reason)


@given(st.text())
def test_any_output_is_one_clean_line_or_a_reason(written):
    query, reason = clean(written, PASSAGE)
    assert (query is None) != (reason is None)
    if query is not None:
        assert query == " ".join(query.split())
        assert clean(query, PASSAGE) == (query, None)  # a query is taken as it is
