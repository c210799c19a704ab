"""Texts in a mapped file can be read as a list is."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.evaluation.strings import Strings

TEXTS = ["one", "", "two", "one", "drei", "четыре"]
STRINGS = Strings(pa.chunked_array([TEXTS[:2], [], TEXTS[2:]], pa.string()))
PLACE = st.none() | st.integers(-8, 8)


@given(PLACE, PLACE, st.none() | st.integers(-3, 3).filter(bool))
def test_slices_are_those_of_a_list(start: int | None, stop: int | None, step: int | None) -> None:
    assert STRINGS[start:stop:step] == TEXTS[start:stop:step]


def test_single_texts_iteration_and_equality_are_those_of_a_list() -> None:
    assert [STRINGS[number] for number in range(-6, 6)] == [TEXTS[number] for number in range(-6, 6)]
    assert list(STRINGS) == TEXTS
    assert STRINGS == TEXTS
    assert TEXTS[:-1] != STRINGS
    for place in (6, -7):
        with pytest.raises(IndexError):
            STRINGS[place]


def test_first_rows_are_found_for_texts_that_occur() -> None:
    assert STRINGS.first_rows(["one", "two", "absent", "one"]) == {"one": 0, "two": 2}
    assert STRINGS.first_rows([]) == {}
