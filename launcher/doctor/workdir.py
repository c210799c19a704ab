"""Is the workdir one and the same place everywhere? The driver leaves a file; every node reads it and leaves an answer.

A node that does not see the driver's file writes nothing, so that nothing is left behind in a folder of the same name.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cluster.errors import ListwiseError
from cluster.tables.storage import Storage

WAITS_S = (0.25, 0.5, 1.0, 2.0, 4.0)  # a network file system may show a new file late


@dataclass
class Probe:
    """The driver's file in a workdir; `answers` are the names of files that nodes may leave."""

    storage: Storage
    name: str
    answers: list[str] = field(default_factory=list)

    def next_answer(self) -> str:
        """A name for one node's answer."""
        self.answers.append(f"{self.name}-{len(self.answers)}")
        return self.answers[-1]


@contextmanager
def probe(url: str) -> Iterator[Probe]:
    """A workdir with a file of the driver in it, for the time of the context; a folder that was not there goes again.

    Raises:
        ListwiseError: it cannot be written to.
    """
    new = _absent_folders(url)
    made = Probe(Storage(url), f".listwise-doctor-{uuid.uuid4().hex}")
    try:
        made.storage.put(made.name, made.name.encode())
        yield made
    finally:
        for name in (made.name, f"{made.name}.clock", *made.answers):
            with suppress(ListwiseError):
                made.storage.remove(name)
        for folder in new:
            with suppress(OSError):
                folder.rmdir()


def answer(url: str, name: str, own: str, waits_s: Sequence[float] = WAITS_S) -> str:
    """Reads the driver's file and writes `own` beside it; returns what is wrong, empty if nothing is.

    Args:
        url: the workdir.
        name: of the driver's file.
        own: of the answer.
        waits_s: pauses between looks.
    """
    local = url if "://" not in url else url.removeprefix("file://") if url.startswith("file://") else None
    for wait in (*waits_s, None):
        try:
            # looked at first, for opening a storage makes its folder
            there = local is None or Path(local).expanduser().is_dir()
            if there and Storage(url).get(name) == name.encode():
                break
        except KeyError:
            pass
        except ListwiseError as error:
            return str(error)
        if wait is None:
            return f"sees another folder of this name: {url}" if there else f"there is no folder {url}"
        time.sleep(wait)
    try:
        Storage(url).put(own, own.encode())
    except ListwiseError as error:
        return f"it cannot be written to: {error}"
    return ""


def arrived(storage: Storage, own: str, waits_s: Sequence[float] = WAITS_S) -> bool:
    """Whether the driver sees a node's answer."""
    for wait in (0.0, *waits_s):
        time.sleep(wait)
        with suppress(KeyError):
            return storage.get(own) == own.encode()
    return False


def file_clock(made: Probe) -> float | None:
    """Seconds by which the workdir's file system is ahead of this machine; None on an object store."""
    if made.storage.local_path is None:
        return None
    path, before = made.storage.local_path / f"{made.name}.clock", time.time()
    path.touch()
    written, after = path.stat().st_mtime, time.time()
    return written - (before + after) / 2


def _absent_folders(url: str) -> list[Path]:
    """The folders that using this workdir would make, innermost first."""
    if "://" in url and not url.startswith("file://"):
        return []
    folder = Path(url.removeprefix("file://")).expanduser().absolute()
    return [one for one in (folder, *folder.parents) if not one.exists()]
