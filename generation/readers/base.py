"""The interface of corpus readers: plan shards without loading the corpus, and read a range of records lazily.

A reader is small and picklable: the driver plans with it, workers read with it. A record is compared with the records
before and after it in its file. So a shard can also read one record beyond each end, unless its file ends there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.tables.plan import Shard


@dataclass(frozen=True)
class Record:
    """One record of the corpus. Id, title and text are valid UTF-8.

    Attributes:
        passage_id, title, text: content of the record.
        file: file that holds the record, for messages.
        position: position in the file, for messages: "line 7".
    """

    passage_id: str
    title: str
    text: str
    file: str
    position: str

    @property
    def place(self) -> str:
        """File and position, for messages."""
        return f"{self.file}, {self.position}"


class Reader(Protocol):
    """A corpus of one format."""

    def fingerprint(self) -> dict[str, Any]:
        """Values that change with the content of the corpus: sizes and checksums of files, versions of packages."""
        ...

    def notes(self) -> list[str]:
        """Sentences for the user about what the corpus holds and is not read."""
        ...

    def plan(self, rows_per_shard: int, max_rows: int | None) -> list[Shard]:
        """Shards of at most `rows_per_shard` records, `max_rows` in all; `read` needs nothing but their `params`.

        A shard may have a `params["note"]`, a sentence for the user about how its file is read.

        Raises:
            InputError: the corpus does not exist, cannot be read, or holds no record.
        """
        ...

    def read(self, shard: Shard, start: int, stop: int) -> Iterator[Record]:
        """Records `start` to `stop` of a shard.

        `start` may be -1 if the shard has a record before it in its file (`params["before"]` is 1), `stop` may be
        `shard.rows + 1` if it has one after it (`params["after"]` is 1).

        Raises:
            InputError: a record is malformed; names file, position and field.
        """
        ...
