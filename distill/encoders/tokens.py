"""Token files: token ids of passages and queries, written once and read by row from memory-mapped Arrow.

The trainer never tokenises in its loop: a step asks for rows, and the planner knows the lengths of all rows. A file
holds record batches of `BATCH_ROWS` rows, so that a division finds a row, without an index. Several files in sequence
are read as one, so that ranks can share the work of writing (`parts`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    import torch

BATCH_ROWS = 4096
PARTS = 64  # most files of one table; a fixed number, since a training may continue with more or fewer ranks
PADDED_TO = 16  # padded lengths are multiples of this, so that kernels, which are cached by shape, see few shapes
CHARACTERS_PER_TOKEN = 16  # a text is cut at this many characters per token before it is tokenised; tokens are shorter
_SCHEMA = pa.schema([("ids", pa.list_(pa.int32()))])

Length = TypeVar("Length", int, np.ndarray)


def padded_length(length: Length) -> Length:
    """Length to which a micro-batch is padded if its longest row has `length` tokens; elementwise for an array."""
    return -(-length // PADDED_TO) * PADDED_TO


def write_tokens(path: Path, texts: Iterable[str], token_ids: Callable[[list[str]], list[Any]]) -> None:
    """Tokenises texts into the Arrow file `path`, under a temporary name until the file is complete.

    Args:
        path: file to write.
        texts: texts, one per row.
        token_ids: gives the ids of each of some texts, as `Reading.token_ids` does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for block in _blocks(texts, BATCH_ROWS):
            ids = token_ids(block)
            writer.write_batch(pa.record_batch([pa.array(ids, type=_SCHEMA.field(0).type)], schema=_SCHEMA))
    partial.replace(path)


def parts(rows: int) -> list[tuple[int, int]]:
    """Ranges of rows, one per file; all but the last have the same size, a multiple of `BATCH_ROWS`."""
    size = -(-rows // (PARTS * BATCH_ROWS)) * BATCH_ROWS
    return [(start, min(start + size, rows)) for start in range(0, rows, max(size, 1))]


def _blocks(items: Iterable[str], size: int) -> Iterator[list[str]]:
    block: list[str] = []
    for item in items:
        block.append(item)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


class TokenFile:
    """Rows of token ids, of one or several files.

    Args:
        paths: files of `write_tokens`, of all `parts` in order. They are mapped into memory; a row is read when it is
            asked for.
        constants: what a model is told of every batch of these rows beside its tokens (`Reading.constants`).
        is_bag: whether the tokens of a row have no order and no padding.

    Attributes:
        lengths: (rows,) int32 number of tokens of each row.
    """

    def __init__(self, *paths: Path, constants: Mapping[str, Any] = MappingProxyType({}), is_bag: bool = False) -> None:
        self.constants, self.is_bag = constants, is_bag
        readers = [pa.ipc.open_file(pa.memory_map(str(path))) for path in paths]
        columns = [file.get_batch(number).column(0) for file in readers for number in range(file.num_record_batches)]
        self._values = [column.values.to_numpy(zero_copy_only=True) for column in columns]
        self._offsets = [column.offsets.to_numpy(zero_copy_only=True) for column in columns]
        self.lengths: np.ndarray = (
            np.concatenate([np.diff(offsets) for offsets in self._offsets]) if columns else np.zeros(0, np.int32)
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        """(length,) int32 token ids of one row."""
        batch, position = divmod(int(row), BATCH_ROWS)
        offsets = self._offsets[batch]
        return self._values[batch][offsets[position] : offsets[position + 1]]

    def padded(self, rows: np.ndarray, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T) int64 token ids, padded on the right, and the (B, T) int64 attention mask.

        T is the `padded_length` of the longest of the B rows, but at most the longest row of the file: the model may
        have no position embeddings beyond it.
        """
        import torch

        longest = min(padded_length(int(self.lengths[rows].max())), int(self.lengths.max()))
        ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        for position, row in enumerate(rows):
            tokens = self[row]
            ids[position, : len(tokens)] = tokens
            mask[position, : len(tokens)] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask)
