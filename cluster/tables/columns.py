"""Arrow columns made of numpy arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def list_column(values: np.ndarray, lengths: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    """A list column from all values in one `(sum of lengths,)` array."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, type=kind))
