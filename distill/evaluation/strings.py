"""A long sequence of texts that stays in a file: it can be read like a list, and takes no memory of the process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

READ_AT_ONCE = 4096


class Strings(Sequence[str]):
    """The values of a column without nulls, which may be one of a mapped file."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            part: list[str] = self.column.slice(start, max(0, stop - start)).to_pylist() if step > 0 else self[:]
            return part[::step] if step > 0 else part[place]
        if not -len(self) <= place < len(self):
            raise IndexError(f"{place} of {len(self)} texts")
        return str(self.column[int(place) % len(self)].as_py())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), READ_AT_ONCE):
            yield from self.column.slice(start, READ_AT_ONCE).to_pylist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def first_rows(self, texts: Sequence[str]) -> dict[str, int]:
        """The first row of each of some texts; without those that do not occur."""
        wanted = pa.array(list(dict.fromkeys(texts)), pa.string())
        number = pc.index_in(self.column, value_set=wanted)
        rows = np.flatnonzero(number.is_valid().to_numpy())
        found, first = np.unique(number.drop_null().to_numpy(), return_index=True)
        return dict(zip(wanted.take(pa.array(found)).to_pylist(), rows[first].tolist(), strict=True))
