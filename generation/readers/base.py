"""What every corpus reader does: plan shards without holding the corpus, read a range of records lazily.

A reader is small and picklable: the driver plans with it, workers read with it. Records are neighbours only inside one
file, so a shard's edge needs to know one record before and one after, and no reader ever looks into another file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.tables.plan import Shard


@dataclass(frozen=True)
class Record:
    """One record of the corpus, from `file`, at `where` ("line 7"). Its id, title and text are valid UTF-8."""

    passage_id: str
    title: str
    text: str
    file: str
    where: str

    @property
    def place(self) -> str:
        """File and line, for messages."""
        return f"{self.file}, {self.where}"


class Reader(Protocol):
    """A corpus of one format."""

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the corpus' content: sizes and checksums of files, versions of packages."""
        ...

    def plan(self, rows_per_shard: int, max_rows: int | None) -> list[Shard]:
        """Shards whose `params` are enough for `read`; at most `max_rows` records in all.

        Raises:
            InputError: the corpus is not there, cannot be read, or holds no record.
        """
        ...

    def read(self, shard: Shard, start: int, stop: int) -> Iterator[Record]:
        """Records `start` to `stop` of a shard.

        `start` may be -1 if the shard has a record before it in its file (`params["before"]` is 1), `stop` may be
        `shard.rows + 1` if it has one after it (`params["after"]` is 1).

        Raises:
            InputError: a record is malformed; names file, line and field.
        """
        ...
