"""Arrow columns made of numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def list_column(values: np.ndarray | pa.Array, lengths: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    """A list column whose i-th list has `lengths[i]` values.

    Args:
        values: (sum of lengths,) the values of all lists, one list after the other.
        lengths: (lists,) int.
        kind: Arrow type of the values.
    """
    flat = values if isinstance(values, pa.Array) else pa.array(values, type=kind)
    return pa.ListArray.from_arrays(_offsets(lengths), flat)


def map_of_lists_column(keys: Sequence[str], values: np.ndarray, lengths: np.ndarray, kind: pa.DataType) -> pa.MapArray:
    """A map column with the same keys in every row; the value of a key is a list. NaN becomes null.

    Args:
        keys: K keys, in the order in which every row holds them.
        values: (K, sum of lengths) for each key the values of all its lists, one list after the other.
        lengths: (rows,) int; all lists of a row have the same length.
        kind: Arrow type of the values in the lists.
    """
    rows = np.repeat(np.arange(len(lengths)), lengths)
    order = np.argsort(np.tile(rows, len(keys)), kind="stable")  # the lists of a row lie together, in the keys' order
    flat = pa.array(values.reshape(-1)[order], type=kind, from_pandas=True)
    lists = pa.ListArray.from_arrays(_offsets(np.repeat(lengths, len(keys))), flat)
    counts = np.full(len(lengths), len(keys))
    return pa.MapArray.from_arrays(_offsets(counts), pa.array(list(keys) * len(lengths), pa.string()), lists)


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
