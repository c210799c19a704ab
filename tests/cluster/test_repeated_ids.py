"""Ids that stand twice are found as a dictionary finds them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.repeated_ids import RepeatedIds


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abcdefghijklmnop"))))
def test_the_earliest_repeated_id_is_found_with_both_places(entries: list[tuple[int, str]]) -> None:
    ids, places, expected = RepeatedIds(), {}, None
    for line, (file, name) in enumerate(entries, 1):
        ids.add(name, line, file)
        if name in places and expected is None:
            expected = ((file, line), places[name])
        places.setdefault(name, (file, line))
    assert ids.first() == expected
    assert len(ids) == len(entries)


def test_it_takes_28_bytes_an_id() -> None:
    ids = RepeatedIds()
    for number in range(10_000):
        ids.add(f"a long identifier of a passage, number {number}", number)
    arrays = list(vars(ids).values())
    assert sum(len(values) * values.itemsize for values in arrays) == 28 * 10_000
