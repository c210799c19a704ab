"""Arrow columns made of numpy arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def list_column(values: np.ndarray, lengths: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    """A list column whose i-th list has `lengths[i]` values.

    Args:
        values: (sum of lengths,) the values of all lists, one list after the other.
        lengths: (lists,) int.
        kind: Arrow type of the values.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, type=kind))
