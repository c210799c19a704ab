"""The training lists in memory: cut, filled and masked; what does not fit the corpus is refused by query."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import InputError
from cluster.schemas import LISTS
from distill.training.batches import MASKED
from distill.training.list_arrays import read_dev_lists, read_lists, read_splits


def lists_table(*rows: tuple[list[int], list[float]], split: str = "train") -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"query_id": f"q{number}", "query_type": "search", "text": f"query {number}", "passage_rows": listed,
             "scores": scores, "split": split, "dev_rows": [], "dev_scores": []}
            for number, (listed, scores) in enumerate(rows)
        ],
        schema=LISTS.schema,
    )  # fmt: skip


def test_a_list_is_cut_or_masked_to_the_length_of_training():
    table = lists_table(([4, 2, 9, 1], [1.0, 0.8, 0.4, 0.1]), ([7], [0.9]))
    found = read_lists(table, "train", 3, 10)
    assert found.rows.tolist() == [[4, 2, 9], [7, MASKED, MASKED]]
    np.testing.assert_allclose(found.scores, [[1.0, 0.8, 0.4], [0.9, 0.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("listed", "scores", "what"),
    [([3, 10], [1.0, 0.5], "a passage that the corpus does not have"),
     ([3, -2], [1.0, 0.5], "a passage that the corpus does not have"),
     ([3, 4], [1.0, float("nan")], "a score that is no number"),
     ([3, 4], [float("inf"), 0.5], "a score that is no number"),
     ([], [], "no passage")],
)  # fmt: skip
def test_a_list_that_does_not_fit_the_corpus_is_refused_with_its_query(listed, scores, what):
    table = lists_table(([1, 2], [1.0, 0.5]), (listed, scores))
    with pytest.raises(InputError, match=f"the list of query 'q1' holds {what}"):
        read_lists(table, "train", 3, 10)


def test_rows_and_scores_of_different_number_are_refused():
    with pytest.raises(InputError, match="query 'q0' has 2 passages and 1 scores"):
        read_lists(lists_table(([1, 2], [1.0])), "train", 3, 10)


def test_dev_queries_are_taken_from_the_whole_split_and_not_from_its_beginning():
    """The lists of a log come last, and neighbouring lists are of neighbouring passages."""
    found = read_dev_lists(lists_table(*[([number], [1.0]) for number in range(100)], split="dev"), 3, 100)
    spread = found.spread(4)
    assert spread.lists.query_ids.to_pylist() == ["q0", "q33", "q66", "q99"]
    assert spread.lists.texts.to_pylist() == ["query 0", "query 33", "query 66", "query 99"]
    assert spread.lists.rows[:, 0].tolist() == spread.rows[:, 0].tolist() == [0, 33, 66, 99]
    assert spread.lists.scores[:, 0].tolist() == spread.scores[:, 0].tolist() == [1.0] * 4
    assert len(spread) == len(spread.lists.logged) == 4
    assert found.spread(None) is found is found.spread(100)


def scored_table() -> pa.Table:
    """Two dev lists: the teachers scored five passages for one, three for the other."""
    rows = lists_table(([4, 2], [1.0, 0.8]), ([7, 1], [0.9, 0.5]), split="dev").to_pylist()
    rows[0] |= {"dev_rows": [4, 2, 3, 9, 8], "dev_scores": [1.0, 0.8, 0.7, 0.1, 0.0]}
    rows[1] |= {"dev_rows": [7, 1, 2], "dev_scores": [0.9, 0.5, 0.4]}
    return pa.Table.from_pylist(rows, schema=LISTS.schema)


def test_dev_lists_hold_every_scored_passage_beside_the_list_that_is_cut():
    found = read_dev_lists(scored_table(), 1, 10)
    assert found.lists.rows.tolist() == [[4], [7]]
    assert found.rows.tolist() == [[4, 2, 3, 9, 8], [7, 1, 2, MASKED, MASKED]]
    np.testing.assert_allclose(found.scores, [[1.0, 0.8, 0.7, 0.1, 0.0], [0.9, 0.5, 0.4, 0, 0]], rtol=1e-6)


def test_where_a_table_holds_lists_alone_the_whole_list_is_what_was_scored():
    table = scored_table().drop_columns(["dev_rows", "dev_scores"])  # of a version that wrote none
    assert read_dev_lists(table, 1, 10).rows.tolist() == [[4, 2], [7, 1]]
    given = lists_table(([4, 2, 3], [1.0, 0.8, 0.1]), split="dev")  # scored elsewhere
    assert read_dev_lists(given, 1, 10).rows.tolist() == [[4, 2, 3]]


def test_a_scored_passage_that_the_corpus_does_not_have_is_refused_with_its_query():
    with pytest.raises(InputError, match="the list of query 'q0' holds a passage that the corpus does not have"):
        read_dev_lists(scored_table(), 2, 8)


def test_without_a_dev_split_there_are_no_dev_lists():
    assert len(read_dev_lists(lists_table(([4], [1.0])), 3, 10)) == 0


def test_lists_of_many_files_are_those_of_one():
    train = lists_table(*[([number, 1], [1.0, 0.5]) for number in range(7)])
    whole = pa.concat_tables([train.slice(0, 3), scored_table(), train.slice(3)])
    lists, dev = read_splits([whole.slice(0, 0), *(whole.slice(start, 2) for start in range(0, 9, 2))], 2, 10)
    expected, expected_dev = read_lists(whole, "train", 2, 10), read_dev_lists(whole, 2, 10)
    for found, wanted in ((lists, expected), (dev.lists, expected_dev.lists)):
        assert found.query_ids.to_pylist() == wanted.query_ids.to_pylist()
        assert found.texts.to_pylist() == wanted.texts.to_pylist()
        for name in ("rows", "scores", "logged"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    np.testing.assert_array_equal(dev.rows, expected_dev.rows)
    np.testing.assert_array_equal(dev.scores, expected_dev.scores)
    nothing, no_dev = read_splits([whole.slice(0, 0)], 2, 10)
    assert len(nothing) == len(no_dev) == 0
