"""The files of a kind in a folder and in all folders below it, and the names of those that are left out.

Hidden files and folders are no data: names that begin with a dot (`.cache/`, and `._a.jsonl`, in which macOS keeps
the attributes of `a.jsonl`), and the folders that unfinished jobs of Spark and archives of macOS leave behind.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import InputError
from cluster.files.names import has_ending

_NO_DATA = {"_temporary", "__MACOSX"}
_SHOWN = 5


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder.

    Attributes:
        names: of the files of the kind, relative to the folder, in order.
        left_out: names of all other files that are not hidden.
        hidden: how many files are hidden; those of hidden folders are not counted.
    """

    names: list[str]
    left_out: list[str]
    hidden: int

    def note(self, folder: Path) -> str | None:
        """A sentence about what is left out; None if that is nothing."""
        parts = []
        if self.left_out:
            more = ", …" if len(self.left_out) > _SHOWN else ""
            parts.append(f"{len(self.left_out)} of another kind ({', '.join(self.left_out[:_SHOWN])}{more})")
        if self.hidden:
            parts.append(f"{self.hidden} hidden")
        return f"{folder}: {len(self.names)} files are read; left out: {', '.join(parts)}" if parts else None


def list_files(folder: Path, endings: Collection[str]) -> FolderFiles:
    """Looks for files of a kind in a folder and below it; follows links.

    Args:
        folder: the folder.
        endings: of the kind, as `has_ending` takes them.

    Raises:
        InputError: a folder cannot be read, or a file of the kind is a link to nothing.
    """
    names, left_out, hidden = [], [], 0
    seen: set[str] = set()
    for place, inner, files in os.walk(folder, followlinks=True, onerror=_refuse):
        seen.add(os.path.realpath(place))
        inner[:] = [name for name in inner if _is_new_data(Path(place, name), seen)]
        for file in files:
            name = Path(place, file).relative_to(folder).as_posix()
            if file.startswith("."):
                hidden += 1
            elif not has_ending(file, endings):
                left_out.append(name)
            elif Path(place, file).exists():
                names.append(name)
            else:
                raise InputError(
                    f"{folder / name} is a link to {Path(place, file).readlink()}, where there is nothing. Fetch the "
                    "file (dvc pull, git annex get), or remove the link."
                )
    return FolderFiles(sorted(names), sorted(left_out), hidden)


def planned_file(path: Path, name: str, what: str, stage: str) -> Path:
    """Path of a file by its name in the plan of a table.

    Args:
        path: the folder, or the file itself.
        name: of the file, relative to the folder; "" if `path` is the file.
        what: the files are, for messages: "corpus".
        stage: that plans them.

    Raises:
        InputError: the name leads out of the folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(
            f"the plan of the {what} names the file '{name}', which is not in {path}, so it was not written by "
            f"listwise. Find out who else writes to this workdir; then run with --overwrite {stage}."
        )
    return path / name if name else path


def _is_new_data(folder: Path, seen: set[str]) -> bool:
    return not folder.name.startswith(".") and folder.name not in _NO_DATA and os.path.realpath(folder) not in seen


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read ({error.strerror}). Every file below it belongs to the data.")
