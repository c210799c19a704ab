"""Reader of `pydocs://`: bodies of the docstrings of installed packages. A shard is a list of source files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from cluster.errors import InputError
from cluster.tables.plan import Shard
from cluster.unicode import valid_utf8
from generation import pydocs
from generation.docstrings import SourceFile, file_docstrings, package_version, source_files
from generation.readers.base import Record


class PydocsReader:
    """Docstrings of installed packages. A shard lists whole files and the names of their docstrings, without aliases.

    Args:
        path: `pydocs://` address.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.packages = pydocs.parse_packages(path)

    @cached_property
    def _files(self) -> dict[tuple[str, ...], SourceFile]:
        """The files of these packages on this machine, by module and name. A plan names no place on a disk."""
        return {(file.module, file.shown): file for package in self.packages for file in source_files(package)}

    def fingerprint(self) -> dict[str, Any]:
        """Version, number of files and their total size, of each package."""
        packages = {}
        for package in self.packages:
            files = source_files(package)
            packages[package] = [package_version(package), len(files), sum(file.size for file in files)]
        return packages

    def notes(self) -> list[str]:
        """None: all of it is read."""
        return []

    def plan(self, rows_per_shard: int, max_rows: int | None) -> list[Shard]:
        """Shards of whole files with at least `rows_per_shard` docstrings each; the last shard may have fewer.

        Raises:
            InputError: a package is not installed, or no package has docstrings.
        """
        shards: list[Shard] = []
        remaining = max_rows if max_rows is not None else float("inf")
        files: list[list[str]] = []
        names: list[str] = []
        collected = pydocs.collect(self.packages)
        for number, (file, docs) in enumerate(collected):
            names += [doc.name for doc in docs[: int(min(len(docs), remaining - len(names)))]]
            if docs:
                files.append([file.module, file.shown])
            full = len(names) >= rows_per_shard or len(names) >= remaining or number == len(collected) - 1
            if full and names:
                shards.append(Shard(f"{len(shards):05d}", len(names), 1, (), {"files": files, "names": names}))
                remaining -= len(names)
                files, names = [], []
        if not shards:
            raise InputError(
                f"{self.path}: no docstring with a body of some length was found in these packages. "
                f"Name packages with more documentation, such as pydocs://stdlib,numpy,scipy."
            )
        return shards

    def read(self, shard: Shard, start: int, stop: int) -> Iterator[Record]:
        """Docstrings `start` to `stop` of a shard. No record lies beyond them, since a shard ends with a file.

        Raises:
            InputError: the packages on this machine are not those that were planned.
        """
        planned = [self._files.get(tuple(parts[-2:])) for parts in shard.params["files"]]
        docs = {doc.name: doc for file in planned if file for doc in file_docstrings(file)}
        for name in shard.params["names"][max(start, 0) : stop]:
            if name not in docs:
                raise InputError(
                    f"{self.path}: {name} was found when the corpus was planned, and is not on this machine now. "
                    f"Install the same packages on every machine, or begin again with --overwrite corpus."
                )
            yield Record(name, "", valid_utf8(docs[name].body), docs[name].file, f"line {docs[name].line}")
