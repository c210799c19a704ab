"""Storage for the files of a run, on a local disk or an object store: one small class over obstore.

Every write is atomic: a reader sees the whole object or none. `create` is the one operation that decides races between
processes. Every call that fails is retried, for as long as the storage's `patience_s` allows, wherever it is made.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import LocalStore, from_url

from cluster.disclosure import HIDDEN, secret_in_url
from cluster.errors import InputError, RunError
from cluster.tables.removal import is_removable, remove_folder

SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")

_FAILURES = (BaseError, OSError)  # the store does not answer, is full, or forbids the call
_PERMANENT = "(os error 20)"  # a file where a folder should be: no retry helps
_ABSENT = (NotFoundError, FileNotFoundError)
_retrying: set[object] = set()  # one token for each call of this process that is being retried
_retrying_ended = [-math.inf]  # when the last of them ended, by the monotonic clock
_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class StorageError(RunError):
    """A storage has failed for longer than its `patience_s`. No row of the reading task is charged with it."""


def seconds_since_retry() -> float:
    """Seconds since this process last retried a call because the storage failed: 0 while it does, infinite if never."""
    return 0.0 if _retrying else time.monotonic() - _retrying_ended[0]


def _retried(call: Callable[Concatenate[Storage, P], T]) -> Callable[Concatenate[Storage, P], T]:
    """A decorator for methods that take a path: retries a failing call, after longer and longer pauses."""

    @functools.wraps(call)
    def retried(self: Storage, *arguments: P.args, **named: P.kwargs) -> T:
        _check_inside(self.url, str((*arguments, *named.values(), "")[0]))
        begun, token = time.monotonic(), object()
        try:
            while True:
                try:
                    result = call(self, *arguments, **named)
                    if token in _retrying:
                        _log.warning("the storage %s answers again, after %.1f s", self.url, time.monotonic() - begun)
                    return result
                except _FAILURES as error:
                    failing_s = time.monotonic() - begun
                    first_line = str(error).strip().partition("\n")[0]
                    if failing_s >= self.patience_s or _PERMANENT in str(error):
                        raise StorageError(
                            f"the storage {self.url} has failed for {failing_s:.0f} s, last: {first_line}. Committed "
                            "work is kept; the same command continues from it."
                        ) from error
                    if token not in _retrying:
                        _log.warning("the storage %s refuses, and is tried again: %s", self.url, first_line)
                        _retrying.add(token)
                    time.sleep(min(0.2 + failing_s / 2, 30.0, max(self.patience_s - failing_s, 0.05)))
        finally:
            if token in _retrying:
                _retrying_ended[0] = time.monotonic()
                _retrying.discard(token)

    return retried


class Storage:
    """A folder on a disk or an object store; paths are relative to it and use `/`.

    A storage pickles as its url and its patience.

    Args:
        url: a local path, which is created, or an s3://, gs:// or az:// url.
        patience_s: seconds for which a failing call is retried.

    Raises:
        InputError: the scheme is unknown, the url holds a secret, or the path cannot be a folder.
        StorageError: raised by every method when the storage has failed for longer than `patience_s`.
        RunError: raised by every method for a path that leads out of the folder.
    """

    def __init__(self, url: str, patience_s: float = 0.0) -> None:
        refuse_secret(url, "storage")
        self.url = url.rstrip("/")
        self.patience_s = patience_s
        scheme, separator, rest = url.partition("://")
        if separator and scheme != "file":
            if scheme not in SCHEMES:
                raise InputError(f"{url}: unknown storage '{scheme}://'; use a local path, s3://, gs:// or az://")
            self._local: Path | None = None
            retries = {"max_retries": 5, "retry_timeout": timedelta(seconds=30)}  # of obstore, inside each of our tries
            try:  # obstore has a type for each backend; the url decides which one this is
                self._store: Any = cast(Any, from_url)(self.url, retry_config=retries)
            except (BaseError, ValueError, OSError) as error:
                first_line = str(error).strip().partition("\n")[0]
                raise InputError(f"{url}: cannot be used as a storage ({first_line})") from error
            return
        self._local = Path(rest if separator else url).expanduser().absolute()
        self.url = str(self._local)
        try:
            self._local.mkdir(parents=True, exist_ok=True)
            self._store = LocalStore(self._local)
        except OSError as error:
            raise InputError(f"{self._local}: cannot be used as a folder ({error.strerror or error})") from error

    def __reduce__(self) -> tuple[type[Storage], tuple[str, float]]:
        return Storage, (self.url, self.patience_s)

    def __repr__(self) -> str:
        return f"Storage({self.url!r}, {self.patience_s:g})"

    @property
    def local_path(self) -> Path | None:
        """The folder on this machine, or None on an object store."""
        return self._local

    @_retried
    def put(self, path: str, data: bytes) -> None:
        """Writes an object; it replaces one of the same name."""
        # a single request, so a failed write leaves nothing; a multipart write streams into the final name
        self._store.put(path, data, use_multipart=False)

    @_retried
    def create(self, path: str, data: bytes) -> bool:
        """Writes an object if none of this name exists; returns whether it did.

        Of many callers exactly one gets True; none gets it if the winner's answer was lost and the call retried.
        """
        try:
            self._store.put(path, data, mode="create", use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def get(self, path: str) -> bytes:
        """The bytes of an object.

        Raises:
            KeyError: no object has this name.
        """
        return bytes(self.buffer(path))

    @_retried
    def buffer(self, path: str) -> pa.Buffer:
        """The bytes of an object, without a copy; raises what `get` raises."""
        try:
            return pa.py_buffer(self._store.get(path).bytes())
        except _ABSENT:
            raise KeyError(f"{self.url}/{path}") from None

    @_retried
    def exists(self, path: str) -> bool:
        """Whether an object of this name exists."""
        try:
            self._store.head(path)
        except _ABSENT:
            return False
        return True

    @_retried
    def folders(self, prefix: str = "") -> list[str]:
        """Paths of the folders directly in the folder `prefix`, sorted; their content is not listed."""
        return sorted(obstore.list_with_delimiter(self._store, prefix or None)["common_prefixes"])

    @_retried
    def list(self, prefix: str) -> list[str]:
        """Paths of the objects in the folder `prefix` and its subfolders, sorted. Too slow to be called per shard."""
        return sorted(meta["path"] for page in obstore.list(self._store, prefix or None) for meta in page)

    @_retried
    def remove(self, path: str) -> None:
        """Deletes one object, without a listing; the object may be absent."""
        with contextlib.suppress(*_ABSENT):
            self._store.delete(path)

    @_retried
    def delete(self, path: str) -> None:
        """Deletes the object of this name, and what stages have made in the folder of this name; either may be absent.

        Raises:
            InputError: the folder, or one inside of it, is a symbolic link (`cluster/tables/removal.py`).
        """
        if self._local is None:
            if paths := [one for one in self.list(path) if is_removable(one)]:
                self._store.delete(paths)
            self.remove(path)
        elif (self._local / path).is_dir():
            remove_folder(self._local, path)
        else:
            (self._local / path).unlink(missing_ok=True)


def refuse_secret(url: str, what: str) -> None:
    """Refuses a url that holds a key or a password, because recipes, records, logs and messages show urls.

    Raises:
        InputError: the url holds a secret; the message begins with `what` and does not show the secret.
    """
    if secret := secret_in_url(url):
        scheme = url.partition("://")[0]
        raise InputError(
            f"{what}: the url {scheme}://{HIDDEN} holds a secret ({secret}), and logs and records show urls. Remove it "
            "from the url, and set it in the environment of driver and workers (AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY, OPENAI_API_KEY)."
        )


def _check_inside(url: str, path: str) -> None:
    """Refuses a path out of the folder. Paths also come from records, which anybody who can write there may change.

    Raises:
        RunError: the path leads out of the folder.
    """
    if path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise RunError(
            f"{url}: '{path}' leads out of the workdir, so it was not written by listwise. Find out who else writes to "
            "this workdir; then do the stage that it belongs to again (--overwrite STAGE)."
        )


def check_usable(url: str, patience_s: float = 0.0) -> None:
    """Checks that a storage accepts a file, and that it creates one only if there is none, before it is trusted.

    Raises:
        StorageError: it does not accept a file.
        InputError: it lets two creators of one file both win.
    """
    storage, name = Storage(url, patience_s), f".writable-{uuid.uuid4().hex}"
    storage.create(name, b"first")
    is_replaced = storage.create(name, b"second")
    storage.remove(name)
    if is_replaced:
        raise InputError(
            f"the storage {storage.url} replaces a file that it was asked to create only if there is none "
            "(If-None-Match: *), so two workers could both commit one shard. A proxy or gateway before the store may "
            "drop the condition, or the store is too old to know it. Use another endpoint, or a folder that all nodes "
            "share."
        )
