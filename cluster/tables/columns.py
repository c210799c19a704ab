"""Arrow columns made of numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def list_column(values: np.ndarray, lengths: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    """A list column whose i-th list has `lengths[i]` values.

    Args:
        values: (sum of lengths,) the values of all lists, one list after the other.
        lengths: (lists,) int.
        kind: Arrow type of the values.
    """
    return pa.ListArray.from_arrays(_offsets(lengths), pa.array(values, type=kind))


def map_of_lists_column(keys: Sequence[str], values: Sequence[np.ndarray], kind: pa.DataType) -> pa.MapArray:
    """A map column with the same keys in every row; the value of a key is a list. NaN becomes null.

    Args:
        keys: K keys, in the order in which every row holds them.
        values: one array for each row, (K, n) with the row's own n.
        kind: Arrow type of the values in the lists.
    """
    flat = np.concatenate([row.reshape(-1) for row in values]) if values else np.empty(0)
    lengths = np.repeat([row.shape[1] for row in values], len(keys)).astype(np.int64)
    lists = pa.ListArray.from_arrays(_offsets(lengths), pa.array(flat, type=kind, from_pandas=True))
    counts = np.full(len(values), len(keys))
    return pa.MapArray.from_arrays(_offsets(counts), pa.array(list(keys) * len(values), pa.string()), lists)


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
