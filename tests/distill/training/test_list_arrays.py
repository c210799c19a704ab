"""The training lists in memory: cut, filled and masked; what does not fit the corpus is refused by query."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import InputError
from cluster.schemas import LISTS
from distill.training.batches import MASKED
from distill.training.list_arrays import read_lists


def lists_table(*rows: tuple[list[int], list[float]], split: str = "train") -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"query_id": f"q{number}", "query_type": "search", "text": f"query {number}", "passage_rows": listed,
             "scores": scores, "split": split, "left_out_row": None}
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
    found = read_lists(lists_table(*[([number], [1.0]) for number in range(100)]), "train", 3, 100)
    spread = found.spread(4)
    assert spread.query_ids.to_pylist() == ["q0", "q33", "q66", "q99"]
    assert spread.texts.to_pylist() == ["query 0", "query 33", "query 66", "query 99"]
    assert spread.rows[:, 0].tolist() == [0, 33, 66, 99]
    assert spread.scores[:, 0].tolist() == [1.0] * 4
    assert len(spread.left_out) == 4
    assert found.spread(None) is found is found.spread(100)
