"""Corpora that are files: their names, paths and checksums, and shards of their records.

A folder's files are those of one kind, in it and in all folders below it; the others are told to the user.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cluster.errors import InputError
from cluster.files.folder import list_files, planned_file
from cluster.tables.plan import Shard

SEEN_BY_ALL = "Every machine of the cluster must see the corpus under this path."
OLD_PLAN = "the corpus was planned by an earlier version of listwise. Run with --overwrite corpus."


def find_files(path: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Names of the corpus files relative to `path`, in order: files of a folder by suffix, or "" if `path` is a file.

    Raises:
        InputError: `path` does not exist, or is a folder without such files.
    """
    if path.is_file():
        return [""]
    if not path.exists():
        raise InputError(
            f"corpus.path: there is no file or folder {path}. Expected a corpus to read. "
            f"Check the spelling. Relative paths begin at the directory in which listwise is called."
        )
    names = list_files(path, suffixes).names
    if not names:
        raise InputError(
            f"corpus.path: the folder {path} has no file that ends in {' or '.join(suffixes)}, and no folder with one. "
            f"Name another folder, or say with corpus.format what its files are."
        )
    return names


def left_out(path: Path, suffixes: tuple[str, ...]) -> list[str]:
    """A sentence about the files of a folder that are not read; none if there are none."""
    note = list_files(path, suffixes).note(path) if path.is_dir() else None
    return [note] if note else []


def shown_name(path: Path, name: str) -> str:
    """Name of a corpus file in messages."""
    return str(path / name) if name else str(path)


def corpus_file(path: Path, name: str) -> Path:
    """Path of a corpus file by its name in the plan.

    Raises:
        InputError: the plan names a file outside of the corpus.
    """
    return planned_file(path, name, "corpus", "corpus")


def open_file(path: Path, name: str) -> BinaryIO:
    """Opens a corpus file.

    Raises:
        InputError: the file is not there or may not be read, or the plan names a file outside of the corpus.
    """
    file = corpus_file(path, name)
    try:
        return file.open("rb")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}). {SEEN_BY_ALL}") from None


def checksums(path: Path, names: list[str]) -> dict[str, Any]:
    """Size and CRC-32 of each file by name; a corpus of one file has the same checksums under every name."""
    sums = {}
    for name in names:
        size = checksum = 0
        with open_file(path, name) as file:
            while block := file.read(1 << 20):
                checksum = zlib.crc32(block, checksum)
                size += len(block)
        sums[name or "file"] = [size, checksum]
    return sums


class ShardCutter:
    """Cuts the records of one file after another into shards.

    Args:
        rows_per_shard: most records in a shard.
        max_rows: most records in all shards; None: no limit.
    """

    def __init__(self, rows_per_shard: int, max_rows: int | None) -> None:
        self.rows_per_shard = rows_per_shard
        self.remaining = max_rows
        self.shards: list[Shard] = []

    @property
    def full(self) -> bool:
        """Whether `max_rows` records are planned."""
        return self.remaining == 0

    def cut(self, positions: Iterator[dict[str, int]], **params: Any) -> None:
        """Plans the records of one file.

        Args:
            positions: position of each record in the file, in order, as `Reader.read` needs it: byte offset, row.
            params: further values for `Shard.params`, such as the name of the file.
        """
        previous: dict[str, int] | None = None
        begin: dict[str, int] = {}
        rows = before = 0
        for position in positions:
            if self.full or rows == self.rows_per_shard:
                self._close(rows, {**params, **begin, "before": before, "after": int(not self.full)})
                rows = 0
                if self.full:
                    return
            if rows == 0:
                begin, before = previous or position, int(previous is not None)
            rows += 1
            self.remaining = self.remaining - 1 if self.remaining is not None else None
            previous = position
        if rows:
            self._close(rows, {**params, **begin, "before": before, "after": 0})

    def done(self, path: str) -> list[Shard]:
        """The shards of all files.

        Raises:
            InputError: the files hold no record.
        """
        if not self.shards:
            raise InputError(f"{path}: the corpus is empty. Expected at least one record; check corpus.path.")
        return self.shards

    def _close(self, rows: int, params: dict[str, Any]) -> None:
        self.shards.append(Shard(f"{len(self.shards):05d}", rows, 1, (), params))
