"""Scores that a teacher gave in this workdir before, so that no pair of query and passage is paid for twice.

A table of scores goes when its candidates change, since its rows are theirs. What it cost was the pairs, and most of
them come again: a recipe with more sources, another depth or one more retriever asks for the old pairs and some new
ones. So a worker also leaves the scores of its pairs under a name for the model and its settings. Only texts decide
what is the same pair; an id may stand for another text later.

`--overwrite scores` removes them, and `--overwrite` of an earlier stage does not. A file that is damaged counts as
absent.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import DamagedError
from cluster.machines.shared_folder import shared_folder
from cluster.schemas import KEPT_SCORES
from cluster.tables.commit import put_rows, read_checked
from cluster.tables.storage import Storage

_SCHEMA = pa.schema([("pair", pa.uint64()), ("score", pa.float32())])
_BUCKETS = 64  # of pairs that are sorted at a time, so that a billion of them need no memory of their size
_SHIFT = np.uint64(64 - 6)
_KEYS, _SCORES = "keys", "scores"
_log = logging.getLogger(__name__)


def folder_of(identity: Mapping[str, Any]) -> str:
    """Where the scores of a teacher are kept, by what determines them: its model, template and settings."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{KEPT_SCORES}/{digest[:16]}"


def state_of(model: str | None) -> dict[str, Any]:
    """Size and time of every file of a model that is a folder or file of this machine; nothing of a model of the hub.

    Somebody who trains a reranker on writes it to the same path. Its old scores are then no longer its own.
    """
    path = Path(model or "").expanduser()
    if not model or not path.exists():
        return {}
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    states = [(str(file.relative_to(path)), file.stat()) for file in files]
    return {"files": [[name, state.st_size, state.st_mtime_ns] for name, state in states]}


def files_of(storage: Storage, folder: str) -> list[str]:
    """The files of a folder, in order of their names."""
    return sorted(storage.list(f"{folder}/data"))


def keys_of(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """(n,) uint64: 64 bits of a hash of query and passage, of n pairs.

    Two of a hundred million pairs have the same key with a probability of 3 in ten thousand.
    """
    hashes = b"".join(
        hashlib.blake2b(f"{len(query)}:{query}{passage}".encode(), digest_size=8).digest() for query, passage in pairs
    )
    return np.frombuffer(hashes, dtype=np.uint64)


def keep(storage: Storage, folder: str, name: str, keys: np.ndarray, scores: np.ndarray) -> None:
    """Writes the finite ones of some scores to a file named after its content.

    Args:
        storage: of the run.
        folder: of the teacher.
        name: of the shard.
        keys: `(n,) uint64` of the pairs.
        scores: `(n,) float32`.
    """
    is_finite = np.isfinite(scores)
    put_rows(storage, folder, name, pa.table([keys[is_finite], scores[is_finite]], schema=_SCHEMA))


class KeptScores:
    """Looks up pairs. The processes of a machine share one sorted copy of all keys and scores, mapped from a file.

    Args:
        storage: of the run.
        folder: of the teacher.
        files: of the folder, those that were there when the stage began.
    """

    def __init__(self, storage: Storage, folder: str, files: Sequence[str]) -> None:
        self._keys, self._scores = np.empty(0, np.uint64), np.empty(0, np.float32)
        if not files:
            return
        identity = hashlib.sha256(json.dumps([storage.url, folder, *files]).encode()).hexdigest()
        made = shared_folder(f"kept-scores-{identity[:16]}", lambda path: _sort(storage, files, path))
        if (made / _KEYS).stat().st_size:
            self._keys = np.memmap(made / _KEYS, dtype=np.uint64, mode="r")
            self._scores = np.memmap(made / _SCORES, dtype=np.float32, mode="r")

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """`(n,) float32` scores of the pairs with these keys; NaN for those that nobody scored."""
        found = np.full(len(keys), np.nan, dtype=np.float32)
        if len(self._keys):
            places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            is_known = self._keys[places] == keys
            found[is_known] = self._scores[places[is_known]]
        return found


def _sort(storage: Storage, files: Sequence[str], folder: Path) -> None:
    """Writes all keys in order, and their scores, a bucket at a time; of a key that stands twice the first."""
    buckets = [(folder / f"{_KEYS}-{number}", folder / f"{_SCORES}-{number}") for number in range(_BUCKETS)]
    for keys, scores in _read(storage, files):
        owners = keys >> _SHIFT
        for bucket in np.unique(owners).tolist():
            for path, values in zip(buckets[bucket], (keys, scores), strict=True):
                with path.open("ab") as file:
                    values[owners == bucket].tofile(file)
    with (folder / _KEYS).open("wb") as all_keys, (folder / _SCORES).open("wb") as all_scores:
        for of_keys, of_scores in buckets:
            if of_keys.exists():
                unique, first = np.unique(np.fromfile(of_keys, np.uint64), return_index=True)
                unique.tofile(all_keys)
                np.fromfile(of_scores, np.float32)[first].tofile(all_scores)
                of_keys.unlink()
                of_scores.unlink()


def _read(storage: Storage, files: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Keys and scores of each file that is whole."""
    for file in files:
        try:
            rows = pq.read_table(pa.BufferReader(read_checked(storage, file)))
        except DamagedError as damaged:
            _log.warning("%s: the scores in it are computed again", damaged)
            continue
        yield rows.column("pair").to_numpy(), rows.column("score").to_numpy()
