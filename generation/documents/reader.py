"""A folder of documents, with its subfolders. A shard is a list of files, so planning opens none of them."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cluster.errors import InputError
from cluster.tables.plan import Shard
from cluster.unicode import valid_utf8
from generation.documents.document import UNREADABLE, Document, DocumentError, Unreadable
from generation.documents.formats import MOST_BYTES, SUFFIXES, check_parsers, is_document, parse

FILES_PER_SHARD = 128
_SHOWN = 5  # endings of other files


@dataclass(frozen=True)
class DocumentReader:
    """The documents of a folder, or one document."""

    path: Path

    def fingerprint(self) -> dict[str, Any]:
        """Number, bytes and one checksum over names and contents: an entry for each would make a plan of megabytes."""
        count = size = checksum = 0
        for name in find_documents(self.path):
            checksum = zlib.crc32(os.fsencode(name), checksum)
            count += 1
            try:
                with self._file(name).open("rb") as file:
                    while block := file.read(1 << 20):
                        checksum = zlib.crc32(block, checksum)
                        size += len(block)
            except OSError:
                continue  # counted as unreadable when it is read
        return {"documents": count, "bytes": size, "checksum": checksum}

    def notes(self) -> list[str]:
        """A sentence on the files that are no documents, by their endings."""
        others: Counter[str] = Counter()
        if self.path.is_dir():
            for _, _, files in _walk(self.path):
                others.update(PurePosixPath(name).suffix.lower() or name for name in files if not is_document(name))
        if not others:
            return []
        first = ", ".join(f"{ending} {count:,}" for ending, count in others.most_common(_SHOWN))
        more = ", …" if len(others) > _SHOWN else ""
        return [f"{self.path}: {others.total():,} files that are no documents are left out: {first}{more}"]

    def plan(self, rows_per_shard: int, max_rows: int | None) -> list[Shard]:
        """Shards of whole files; `max_rows` is the most documents.

        Raises:
            InputError: there is no document, or the parser of one is not installed.
        """
        names = list(find_documents(self.path))[:max_rows]
        if not names:
            raise InputError(
                f"corpus.path: {self.path} holds no document. Expected files that end in {', '.join(SUFFIXES)}, in the "
                "folder or below it. Check the spelling, or say with corpus.format what its files are."
            )
        check_parsers(name or self.path.name for name in names)
        each = min(rows_per_shard, FILES_PER_SHARD)
        parts = [names[start : start + each] for start in range(0, len(names), each)]
        return [Shard(f"{number:05d}", len(part), 1, (), {"files": part}) for number, part in enumerate(parts)]

    def read(self, shard: Shard, start: int, stop: int) -> Iterator[Document | Unreadable]:
        """Documents `start` to `stop` of a shard; one without text says why.

        Raises:
            InputError: the plan names a file outside of the folder, or the parser of one is not installed here.
        """
        names = shard.params["files"][start:stop]
        check_parsers(name or self.path.name for name in names)
        for name in names:
            shown = valid_utf8(name or self.path.name)
            try:
                yield Document(shown, parse(name or self.path.name, self._content(name)), str(self.path / shown))
            except DocumentError as error:
                yield Unreadable(shown, error.reason, str(error))

    def _content(self, name: str) -> bytes:
        try:
            with self._file(name).open("rb") as file:
                return file.read(MOST_BYTES + 1)
        except OSError as error:
            raise DocumentError(UNREADABLE, error.strerror or type(error).__name__) from None

    def _file(self, name: str) -> Path:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise InputError(
                f"the plan of the corpus names the file '{name}', which is not in {self.path}, so it was not written "
                "by listwise. Find out who else writes to this workdir; then run with --overwrite corpus."
            )
        return self.path / name if name else self.path


def find_documents(path: Path) -> Iterator[str]:
    """Paths of the documents below a folder, in order; "" for one document.

    Hidden files and folders are left out, and links to folders are not followed, since they may lead in a circle.
    """
    if path.is_file():
        yield ""
        return
    for folder, _, files in _walk(path):
        inside = Path(folder).relative_to(path)
        for name in files:
            if is_document(name):
                yield (inside / name).as_posix()


def _walk(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Folders and files that are not hidden, in order."""
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield folder, folders, sorted(name for name in files if not name.startswith("."))


def holds_documents(path: Path) -> bool:
    """Whether a path is a document, or a folder with documents in it or below it."""
    if path.is_file():
        return is_document(path.name)
    return next(find_documents(path), None) is not None
