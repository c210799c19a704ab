"""The training lists and the dev lists in memory: rows and scores as arrays, query texts as Arrow.

A million lists of twenty passages take 240 MB; passages themselves stay in their token file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import InputError
from cluster.schemas import JUDGED_TYPE, LOG_TYPE
from distill.training.batches import MASKED

_REMEDY = "Lists and passages must come from the same run: make the lists anew with --overwrite lists."


@dataclass(frozen=True)
class ListArrays:
    """Lists of one split.

    Attributes:
        query_ids: N identifiers.
        texts: N query texts.
        rows: (N, L) int64 corpus rows by descending teacher score, `MASKED` where a list is shorter.
        scores: (N, L) float32 normalised teacher scores, 0 where a list is shorter.
        logged: (N,) bool, whether a person asked the query: it is logged or judged.
    """

    query_ids: pa.ChunkedArray
    texts: pa.ChunkedArray
    rows: np.ndarray
    scores: np.ndarray
    logged: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def joined(cls, parts: Sequence[ListArrays]) -> ListArrays:
        """The lists of all parts, of which there is one at least; all have the same L."""
        query_ids, texts = (
            pa.chunked_array([chunk for part in parts for chunk in getattr(part, name).chunks], pa.string())
            for name in ("query_ids", "texts")
        )
        rows, scores, logged = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "scores", "logged")
        )
        return cls(query_ids, texts, rows, scores, logged)

    def take(self, chosen: np.ndarray) -> ListArrays:
        """The lists of these numbers."""
        return ListArrays(
            self.query_ids.take(chosen), self.texts.take(chosen), self.rows[chosen], self.scores[chosen],
            self.logged[chosen],
        )  # fmt: skip


@dataclass(frozen=True)
class DevLists:
    """Lists of the dev split, and beside each list all passages that the teachers scored for its query.

    Attributes:
        lists: N lists.
        rows: (N, C) int64 corpus rows of the scored passages by descending score, `MASKED` where there are fewer. Where
            a table holds only lists, as one that was made elsewhere, they are the whole list.
        scores: (N, C) float32 normalised teacher scores, 0 where there are fewer.
    """

    lists: ListArrays
    rows: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.lists)

    def spread(self, count: int | None) -> DevLists:
        """`count` lists at equal distances, or all. Neighbours are of neighbouring passages, and a log's come last."""
        if count is None or count >= len(self):
            return self
        chosen = np.linspace(0, len(self) - 1, count).round().astype(np.int64)
        return DevLists(self.lists.take(chosen), self.rows[chosen], self.scores[chosen])


def read_splits(tables: Iterable[pa.Table], length: int, passages: int) -> tuple[ListArrays, DevLists]:
    """The train lists and the dev lists of the lists table.

    Args:
        tables: its rows, one file after the other, at least one; they are never in memory together.
        length, passages: as in `read_lists`.

    Raises:
        InputError: as `read_lists`.
    """
    train, dev = [], []
    for table in tables:
        train.append(read_lists(table, "train", length, passages))
        dev.append(table.filter(pc.equal(table["split"], "dev")))
    return ListArrays.joined(train), read_dev_lists(pa.concat_tables(dev), length, passages)


def read_lists(table: pa.Table, split: str, length: int, passages: int) -> ListArrays:
    """Lists of one split of the lists table, cut to the `length` best-scored passages.

    Args:
        table: columns of `cluster.schemas.LISTS`.
        split: "train" or "dev".
        length: L.
        passages: rows of the corpus; a list that names a row beyond it is refused.

    Raises:
        InputError: a list is empty, names a passage that the corpus does not have, or holds a score that is no number.
    """
    chosen = table.filter(pc.equal(table["split"], split))
    rows, scores = _checked(chosen, "passage_rows", "scores", length, passages)
    logged = pc.is_in(chosen["query_type"], value_set=pa.array([LOG_TYPE, JUDGED_TYPE])).to_numpy()
    return ListArrays(chosen["query_id"], chosen["text"], rows, scores, logged)


def read_dev_lists(table: pa.Table, length: int, passages: int) -> DevLists:
    """Lists of the dev split, and all scored passages of their queries.

    Args, raises: as `read_lists`.
    """
    lists = read_lists(table, "dev", length, passages)
    chosen = table.filter(pc.equal(table["split"], "dev"))
    names = ("dev_rows", "dev_scores")
    # tables of lists that were scored elsewhere, or by an older version, hold the lists alone
    if not set(names) <= set(table.column_names) or not pc.sum(pc.list_value_length(chosen["dev_rows"])).as_py():
        names = ("passage_rows", "scores")
    most = pc.max(pc.list_value_length(chosen[names[0]])).as_py() or 1
    return DevLists(lists, *_checked(chosen, *names, most, passages))


def _checked(
    chosen: pa.Table, rows_name: str, scores_name: str, length: int, passages: int
) -> tuple[np.ndarray, np.ndarray]:
    """(N, length) rows and scores of two list columns; raises as `read_lists`."""
    listed, scored = (pc.list_value_length(chosen[name]).to_numpy() for name in (rows_name, scores_name))
    for number in np.flatnonzero(listed != scored)[:1].tolist():
        raise InputError(
            f"the list of query '{chosen['query_id'][number]}' has {listed[number]} passages and "
            f"{scored[number]} scores. {_REMEDY}"
        )
    rows = _padded(chosen[rows_name], length, MASKED, np.int64)
    scores = _padded(chosen[scores_name], length, 0.0, np.float32)
    filled = np.arange(length) < listed[:, None]
    for wrong, what in (
        (filled & ((rows < 0) | (rows >= passages)), "a passage that the corpus does not have"),
        (~np.isfinite(scores), "a score that is no number"),
        (~filled[:, :1], "no passage"),
    ):
        if wrong.any():
            query = chosen["query_id"][int(np.argwhere(wrong)[0][0])].as_py()
            more = f" ({int(wrong.any(axis=1).sum())} of {len(chosen)} lists of one file do)"
            raise InputError(f"the list of query '{query}' holds {what}{more}. {_REMEDY}")
    return rows, scores


def _padded(column: pa.ChunkedArray, length: int, fill: float, dtype: type) -> np.ndarray:
    """(N, length) array of a list column, cut or filled."""
    result: np.ndarray = np.full((len(column), length), fill, dtype=dtype)
    start = 0
    for chunk in column.chunks:
        offsets = chunk.offsets.to_numpy()
        values = chunk.values.to_numpy(zero_copy_only=False)
        sizes = np.minimum(np.diff(offsets), length)
        places = np.arange(length)[None, :]
        filled = places < sizes[:, None]
        result[start : start + len(chunk)][filled] = values[(offsets[:-1, None] + places)[filled]]
        start += len(chunk)
    return result
