"""Reader of Hugging Face data sets: `hf://OWNER/NAME` from the hub or its cache, `hf://FOLDER` saved on disk."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import InputError
from cluster.tables.plan import Shard
from generation.readers.base import Record
from generation.readers.fields import Fields
from generation.readers.files import ShardCutter

if TYPE_CHECKING:
    from datasets import Dataset

PREFIX = "hf://"
BATCH_ROWS = 2_000


@dataclass(frozen=True)
class HfReader:
    """A Hugging Face data set. A shard is a row number. Rows are memory-mapped, so no process holds the data set."""

    name: str
    config: str | None
    split: str
    fields: Fields

    def fingerprint(self) -> dict[str, Any]:
        """Rows and a checksum of every column that may be read."""
        data = load(self.name, self.config, self.split).data
        sums: dict[str, Any] = {"rows": data.num_rows}
        for column in sorted(set(data.column_names) & set(self.fields.all)):
            checksum = 0
            for chunk in data.column(column).chunks:
                for buffer in chunk.buffers():
                    checksum = zlib.crc32(buffer, checksum) if buffer is not None else checksum
            sums[column] = checksum
        return sums

    def notes(self) -> list[str]:
        """None: all of it is read."""
        return []

    def plan(self, rows_per_shard: int, max_rows: int | None) -> list[Shard]:
        """Shards of the rows; downloads the data set if this machine does not have it.

        Raises:
            InputError: the data set cannot be loaded, lacks the split or a field, or is empty.
        """
        dataset = load(self.name, self.config, self.split)
        self.fields.check(dataset.column_names, self._shown)
        cutter = ShardCutter(rows_per_shard, max_rows)
        cutter.cut({"row": row} for row in range(len(dataset)))
        return cutter.done(self._shown)

    def read(self, shard: Shard, start: int, stop: int) -> Iterator[Record]:
        """Records `start` to `stop` of a shard.

        Raises:
            InputError: a row lacks an id or has a field of the wrong type.
        """
        dataset = load(self.name, self.config, self.split)
        dataset = dataset.select_columns([name for name in dataset.column_names if name in self.fields.all])
        first = shard.params["row"] + shard.params["before"] + start
        last = first + stop - start
        for begin in range(first, last, BATCH_ROWS):
            batch = dataset[begin : min(begin + BATCH_ROWS, last)]
            for number, values in enumerate(zip(*batch.values(), strict=True), begin + 1):
                yield self.fields.record(dict(zip(batch, values, strict=True)), self._shown, f"row {number}")

    @property
    def _shown(self) -> str:
        return f"{PREFIX}{self.name} ({self.split})"


@lru_cache(maxsize=2)
def load(name: str, config: str | None, split: str) -> Dataset:
    """A split of a data set, from a folder that `save_to_disk` wrote, a folder of data files, or the hub.

    Raises:
        InputError: the data set cannot be loaded; quotes the error of `datasets`.
    """
    import datasets

    datasets.disable_progress_bars()
    folder = Path(name).expanduser()
    saved = any((folder / mark).is_file() for mark in ("state.json", "dataset_dict.json"))
    try:
        data = datasets.load_from_disk(str(folder)) if saved else datasets.load_dataset(name, config, split=split)
    except Exception as error:  # every builder of `datasets` raises its own errors
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{PREFIX}{name}: cannot be loaded ({type(error).__name__}: {reason}). Expected an id of the hub "
            f"or a folder. Check corpus.hf_config ({config or 'not set'}), corpus.hf_split ({split}) and the network."
        ) from None
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise InputError(
                f"{PREFIX}{name}: there is no split '{split}'. "
                f"The splits are {', '.join(data)}; name one with corpus.hf_split."
            )
        return data[split]
    return data
