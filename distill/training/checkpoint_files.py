"""The files of a checkpoint on the disk: written through to it, and known to be whole by their sha256.

A power cut, a full disk or a flipped bit can leave a file empty, short or changed. `state.json` names the sha256 of
every other file, and of itself. A checkpoint that does not agree is put aside, and the one before it counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

STATE = "state.json"
ASIDE = "damaged-"  # instead of "step-", so that nothing takes the folder for a checkpoint; people may look at it


def seal(folder: Path, state: dict[str, Any]) -> None:
    """Writes `state.json` beside the other files. When it returns, all of them are on the disk.

    Args:
        folder: holds the other files of the checkpoint.
        state: JSON, without the fields `files` and `sha256`.
    """
    others = sorted(path for path in folder.iterdir() if path.is_file())
    record = state | {"files": {path.name: _sha256(path) for path in others}}
    (folder / STATE).write_text(json.dumps(record | {"sha256": _digest(record)}, indent=1))
    for path in (*others, folder / STATE, folder):
        sync(path)


def sync(path: Path) -> None:
    """Waits until the content of a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(folder: Path) -> dict[str, Any]:
    """The state of a whole checkpoint.

    Raises:
        ValueError: a file is missing, cut or changed; the text names it.
    """
    try:
        state = json.loads((folder / STATE).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{STATE} cannot be read ({error})") from None
    if not isinstance(state, dict) or "step" not in state:
        raise ValueError(f"{STATE} holds no state")
    if not state.keys() & {"files", "sha256"}:
        return state  # of a version that wrote neither; one of them alone is a damaged name
    expected = state.pop("sha256", None)
    if _digest(state) != expected:
        raise ValueError(f"{STATE} has another sha256 than it says")
    for name, digest in state.pop("files").items():
        try:
            found = _sha256(folder / name)
        except OSError as error:
            raise ValueError(f"{name} cannot be read ({error.strerror})") from None
        if found != digest:
            size = (folder / name).stat().st_size
            raise ValueError(f"{name}, {size} bytes, has not the sha256 that {STATE} names")
    return state


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The whole checkpoint with the highest step, and a sentence for each damaged one, which is put aside.

    A checkpoint needs the best one so far beside it, which the training would export: if that is damaged, it is no use.
    """
    whole: dict[str, dict[str, Any]] = {}
    notes = []
    for path in sorted(folder.glob("step-*")):
        try:
            state = read(path)
        except ValueError as error:
            aside = path.with_name(path.name.replace("step-", ASIDE))
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            notes.append(f"the checkpoint {path.name} is damaged: {error}. It lies in {aside} now.")
            continue
        whole[path.name] = state
    usable = []
    for name, state in whole.items():
        best = name_of(state["best_step"] or state["step"])  # none yet, or 0: the base, which needs no checkpoint
        if best in whole:
            usable.append(name)
        else:
            notes.append(f"the checkpoint {name} needs {best}, the best one so far, which is no longer there.")
    newest = folder / max(usable) if usable else None
    if notes:
        notes.append(f"Training continues from {newest.name}." if newest else "Training begins anew.")
    return newest, notes


def name_of(step: int) -> str:
    """Name of the folder of a checkpoint."""
    return f"step-{step:08d}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
