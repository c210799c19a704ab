"""The check that all nodes see the same workdir: the driver writes a file, each node reads it and writes an answer.

A node that does not see the driver's file writes nothing, so no file stays behind in another folder of the same name.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cluster.errors import ListwiseError
from cluster.tables.storage import Storage, check_usable

WAITS_S = (0.25, 0.5, 1.0, 2.0, 4.0)  # between attempts: a network file system may show a new file late


@dataclass
class Probe:
    """The driver's file in a workdir; `answer_names` are the names of the files that nodes may write."""

    storage: Storage
    name: str
    answer_names: list[str] = field(default_factory=list)

    def next_answer_name(self) -> str:
        """A new name for the answer of one node."""
        self.answer_names.append(f"{self.name}-{len(self.answer_names)}")
        return self.answer_names[-1]


@contextmanager
def open_probe(url: str) -> Iterator[Probe]:
    """Writes the driver's file into a workdir; at its end the context removes all files and folders that it created.

    Raises:
        ListwiseError: the workdir cannot be written to, or lets two creators of one file both win.
    """
    new_folders = _absent_folders(url)
    probe = Probe(Storage(url), f".listwise-doctor-{uuid.uuid4().hex}")
    try:
        check_usable(url)
        probe.storage.put(probe.name, probe.name.encode())
        yield probe
    finally:
        for name in (probe.name, f"{probe.name}.clock", *probe.answer_names):
            with suppress(ListwiseError):
                probe.storage.remove(name)
        for folder in new_folders:
            with suppress(OSError):
                folder.rmdir()


def answer_probe(url: str, probe_name: str, answer_name: str, waits_s: Sequence[float] = WAITS_S) -> str:
    """Reads the driver's file and writes an answer beside it; returns the problem, or an empty text.

    Args:
        url: the workdir.
        probe_name: name of the driver's file.
        answer_name: name of the file to write.
        waits_s: seconds to wait between attempts to read.
    """
    local = url if "://" not in url else url.removeprefix("file://") if url.startswith("file://") else None
    for wait in (*waits_s, None):
        try:
            # This comes first, because opening a storage creates its folder.
            exists = local is None or Path(local).expanduser().is_dir()
            if exists and Storage(url).get(probe_name) == probe_name.encode():
                break
        except KeyError:
            pass
        except ListwiseError as error:
            return str(error)
        if wait is None:
            return f"the node sees another folder of this name: {url}" if exists else f"there is no folder {url}"
        time.sleep(wait)
    try:
        Storage(url).put(answer_name, answer_name.encode())
    except ListwiseError as error:
        return f"the node cannot write to it: {error}"
    return ""


def has_answer(storage: Storage, answer_name: str, waits_s: Sequence[float] = WAITS_S) -> bool:
    """Whether the driver sees the answer of a node."""
    for wait in (0.0, *waits_s):
        time.sleep(wait)
        with suppress(KeyError):
            return storage.get(answer_name) == answer_name.encode()
    return False


def clock_offset(probe: Probe) -> float | None:
    """Seconds by which the clock of the workdir's file system is ahead of this machine's; None on an object store."""
    if probe.storage.local_path is None:
        return None
    path, before = probe.storage.local_path / f"{probe.name}.clock", time.time()
    path.touch()
    written, after = path.stat().st_mtime, time.time()
    return written - (before + after) / 2


def _absent_folders(url: str) -> list[Path]:
    """The folders that the use of this workdir would create, innermost first."""
    if "://" in url and not url.startswith("file://"):
        return []
    folder = Path(url.removeprefix("file://")).expanduser().absolute()
    return [path for path in (folder, *folder.parents) if not path.exists()]
