"""Token ids of the corpus and of the queries, written once and read by row from memory-mapped Arrow.

The trainer never tokenises in its loop: a step asks for rows, and lengths of all rows are known to the planner. A file
holds record batches of `BATCH_ROWS` rows, so that a row is found by division, without an index; and so do many files in
a row, which is how ranks share the work (`parts`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

BATCH_ROWS = 4096
PARTS = 64  # at most so many files, however many ranks there are or will be when the training continues
PADDED_TO = 16  # padded lengths are multiples of this: few shapes of micro-batches, for kernels are kept for each
CHARACTERS_PER_TOKEN = 16  # a text is cut at this many characters per token before it is tokenised
_SCHEMA = pa.schema([("ids", pa.list_(pa.int32()))])


Length = TypeVar("Length", int, np.ndarray)


def padded_length(length: Length) -> Length:
    """Tokens to which a micro-batch is padded whose longest row has this many; of an array, of each."""
    return -(-length // PADDED_TO) * PADDED_TO


def write_tokens(
    path: Path, texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int, prompt: str = ""
) -> None:
    """Tokenises `texts` with special tokens, each cut at `max_tokens`, into the Arrow file `path`, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for block in _blocks(texts, BATCH_ROWS):
            shown = [prompt + text[: CHARACTERS_PER_TOKEN * max_tokens] for text in block]
            ids = tokenizer(shown, truncation=True, max_length=max_tokens, padding=False)["input_ids"]
            writer.write_batch(pa.record_batch([pa.array(ids, type=_SCHEMA.field(0).type)], schema=_SCHEMA))
    partial.replace(path)


def parts(rows: int) -> list[tuple[int, int]]:
    """Ranges of rows, one for each file: all but the last are equal and hold whole record batches."""
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
    """Rows of token ids.

    Args:
        paths: files of `write_tokens`, of all `parts` in order; they stay mapped, nothing is read until a row is asked
            for.
    """

    def __init__(self, *paths: Path) -> None:
        readers = [pa.ipc.open_file(pa.memory_map(str(path))) for path in paths]
        columns = [each.get_batch(number).column(0) for each in readers for number in range(each.num_record_batches)]
        self._values = [column.values.to_numpy(zero_copy_only=True) for column in columns]
        self._offsets = [column.offsets.to_numpy(zero_copy_only=True) for column in columns]
        self.lengths: np.ndarray = (
            np.concatenate([np.diff(offsets) for offsets in self._offsets]) if columns else np.zeros(0, np.int32)
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        """(length,) int32 token ids of one row."""
        batch, place = divmod(int(row), BATCH_ROWS)
        offsets = self._offsets[batch]
        return self._values[batch][offsets[place] : offsets[place + 1]]

    def padded(self, rows: np.ndarray, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T) int64 token ids, right-padded, and the (B, T) int64 attention mask.

        T is the `padded_length` of the longest row, but no more than the file's longest: the model may end there.
        """
        import torch

        longest = min(padded_length(int(self.lengths[rows].max())), int(self.lengths.max()))
        ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        for place, row in enumerate(rows):
            tokens = self[row]
            ids[place, : len(tokens)] = tokens
            mask[place, : len(tokens)] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask)
