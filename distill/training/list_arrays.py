"""The training lists in memory: rows and scores as arrays, query texts as Arrow.

A million lists of twenty passages take 240 MB; passages themselves stay in their token file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import InputError
from cluster.schemas import LOG_TYPE
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
        left_out: (N,) int64 corpus row that was left out of the list, `MASKED` where none was.
        logged: (N,) bool, whether the query comes from the query log.
    """

    query_ids: pa.ChunkedArray
    texts: pa.ChunkedArray
    rows: np.ndarray
    scores: np.ndarray
    left_out: np.ndarray
    logged: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def spread(self, count: int | None) -> ListArrays:
        """`count` lists at equal distances, or all. Neighbours are of neighbouring passages, and a log's come last."""
        if count is None or count >= len(self):
            return self
        chosen = np.linspace(0, len(self) - 1, count).round().astype(np.int64)
        return ListArrays(
            self.query_ids.take(chosen), self.texts.take(chosen), self.rows[chosen], self.scores[chosen],
            self.left_out[chosen], self.logged[chosen],
        )  # fmt: skip


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
    listed, scored = (pc.list_value_length(chosen[name]).to_numpy() for name in ("passage_rows", "scores"))
    for number in np.flatnonzero(listed != scored)[:1].tolist():
        raise InputError(
            f"the list of query '{chosen['query_id'][number]}' has {listed[number]} passages and "
            f"{scored[number]} scores. {_REMEDY}"
        )
    rows = _padded(chosen["passage_rows"], length, MASKED, np.int64)
    scores = _padded(chosen["scores"], length, 0.0, np.float32)
    filled = np.arange(length) < listed[:, None]
    for wrong, what in (
        (filled & ((rows < 0) | (rows >= passages)), "a passage that the corpus does not have"),
        (~np.isfinite(scores), "a score that is no number"),
        (~filled[:, :1], "no passage"),
    ):
        if wrong.any():
            query = chosen["query_id"][int(np.argwhere(wrong)[0][0])].as_py()
            more = f" ({int(wrong.any(axis=1).sum())} lists do)"
            raise InputError(f"the list of query '{query}' holds {what}{more}. {_REMEDY}")
    left_out = pc.fill_null(chosen["left_out_row"], MASKED).to_numpy()
    logged = pc.fill_null(pc.equal(chosen["query_type"], LOG_TYPE), False).to_numpy()
    return ListArrays(chosen["query_id"], chosen["text"], rows, scores, left_out, logged)


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
