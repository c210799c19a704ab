"""Files of a run, on a local disk or an object store, behind one small class over obstore.

Every write is atomic: a reader sees the whole object or none. `create` is the one primitive that decides races. A call
that the storage refuses is tried again for as long as the storage is given patience, wherever in the run it is made.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
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

SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")

_REFUSALS = (BaseError, OSError)  # of a store that does not answer, is full, or says no
_NEVER_HEALS = "(os error 20)"  # a file stands where a folder should be
_ABSENT = (NotFoundError, FileNotFoundError)
_riding_out: set[object] = set()  # one token for each call of this process that is being tried again
_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class StorageError(RunError):
    """A storage has refused for longer than there was patience with it: no row's fault, whoever was reading."""


def riding_out() -> bool:
    """Whether a call of this process is waiting for a storage that refuses."""
    return bool(_riding_out)


def _patient(call: Callable[Concatenate[Storage, P], T]) -> Callable[Concatenate[Storage, P], T]:
    """A method of a path, which is tried again, after longer and longer pauses, while the storage refuses."""

    @functools.wraps(call)
    def tried(self: Storage, *arguments: P.args, **named: P.kwargs) -> T:
        _check_inside(self.url, str((*arguments, *named.values(), "")[0]))
        begun, token = time.monotonic(), object()
        try:
            while True:
                try:
                    result = call(self, *arguments, **named)
                    if token in _riding_out:
                        _log.warning("the storage %s answers again, after %.1f s", self.url, time.monotonic() - begun)
                    return result
                except _REFUSALS as error:
                    failing = time.monotonic() - begun
                    first = str(error).strip().partition("\n")[0]
                    if failing >= self.patience_s or _NEVER_HEALS in str(error):
                        raise StorageError(
                            f"the storage {self.url} has failed for {failing:.0f} s, last: {first}. What is committed "
                            "is kept; the same command continues from it."
                        ) from error
                    if token not in _riding_out:
                        _log.warning("the storage %s refuses, and is tried again: %s", self.url, first)
                        _riding_out.add(token)
                    time.sleep(min(0.2 + failing / 2, 30.0, max(self.patience_s - failing, 0.05)))
        finally:
            _riding_out.discard(token)

    return tried


class Storage:
    """A folder; paths are relative to it and use `/`. Pickles as its url and its patience.

    Args:
        url: a local path, which is created, or an s3://, gs:// or az:// url.
        patience_s: how long a call is tried again while the storage refuses.

    Raises:
        InputError: unknown scheme, a secret in the url, or a path that cannot be a folder.
        StorageError: raised by every method, when the storage has refused for longer than `patience_s`.
        RunError: raised by every method, for a path that leads out of the folder.
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
            retries = {"max_retries": 5, "retry_timeout": timedelta(seconds=30)}  # the rest is our own patience
            try:  # typed per backend by obstore; the url decides which one it is
                self._store: Any = cast(Any, from_url)(self.url, retry_config=retries)
            except (BaseError, ValueError, OSError) as error:
                first = str(error).strip().partition("\n")[0]
                raise InputError(f"{url}: cannot be used as a storage ({first})") from error
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

    @_patient
    def put(self, path: str, data: bytes) -> None:
        """Writes an object, replacing what was there."""
        # one request, so that a failed write leaves nothing; multipart would be a stream into the final name
        self._store.put(path, data, use_multipart=False)

    @_patient
    def create(self, path: str, data: bytes) -> bool:
        """Writes an object if none is there. Of many callers exactly one gets True, or none if its answer was lost."""
        try:
            self._store.put(path, data, mode="create", use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def get(self, path: str) -> bytes:
        """The object's bytes.

        Raises:
            KeyError: no such object.
        """
        return bytes(self.buffer(path))

    @_patient
    def buffer(self, path: str) -> pa.Buffer:
        """Like `get`, without a copy."""
        try:
            return pa.py_buffer(self._store.get(path).bytes())
        except _ABSENT:
            raise KeyError(f"{self.url}/{path}") from None

    @_patient
    def exists(self, path: str) -> bool:
        """Whether an object of this name is there."""
        try:
            self._store.head(path)
        except _ABSENT:
            return False
        return True

    @_patient
    def folders(self, prefix: str = "") -> list[str]:
        """Paths of the folders directly in `prefix`, sorted, without a look inside them."""
        return sorted(obstore.list_with_delimiter(self._store, prefix or None)["common_prefixes"])

    @_patient
    def list(self, prefix: str) -> list[str]:
        """Names of the objects in the folder `prefix` and below, sorted. Not for the hot path."""
        return sorted(meta["path"] for page in obstore.list(self._store, prefix or None) for meta in page)

    @_patient
    def remove(self, path: str) -> None:
        """Deletes one object, without a listing; it may be absent."""
        with contextlib.suppress(*_ABSENT):
            self._store.delete(path)

    @_patient
    def delete(self, path: str) -> None:
        """Deletes the object of this name and everything in the folder of this name; either may be absent."""
        if self._local is None:
            if paths := self.list(path):
                self._store.delete(paths)
            self.remove(path)
        elif (self._local / path).is_dir():
            _empty(self._local / path)
        else:
            (self._local / path).unlink(missing_ok=True)


def refuse_secret(url: str, what: str) -> None:
    """Refuses a url that holds a key or a password: urls stand in recipes, records, logs and messages.

    Raises:
        InputError: begins with `what`, and does not show the secret.
    """
    if found := secret_in_url(url):
        scheme = url.partition("://")[0]
        raise InputError(
            f"{what}: the url {scheme}://{HIDDEN} holds a secret ({found}), and urls are written down and shown. Take "
            "it out, and set it in the environment of driver and workers (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY, OPENAI_API_KEY)."
        )


def _check_inside(url: str, path: str) -> None:
    """Names come from records too, and a record may have been written by anybody who could write to the folder."""
    if path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise RunError(
            f"{url}: '{path}' leads out of the workdir, so it was not written by listwise. Find out who else writes to "
            "this workdir; then do the stage that it belongs to again (--overwrite STAGE)."
        )


def _empty(folder: Path) -> None:
    """Removes a folder, though others may be removing it too; a link to a folder stays, without its content."""

    def ignore_absent(function: Any, path: str, error: tuple[type[BaseException], BaseException, Any]) -> None:
        if not isinstance(error[1], FileNotFoundError):
            raise error[1]

    if not folder.is_symlink():
        shutil.rmtree(folder, onerror=ignore_absent)
        return
    for inner in folder.iterdir():
        if inner.is_dir():
            _empty(inner)
        else:
            inner.unlink(missing_ok=True)


def check_writable(url: str, patience_s: float = 0.0) -> None:
    """Tries a storage before work is trusted to it: what fails now, a person has to put right.

    Raises:
        StorageError: it does not take a file.
    """
    storage, name = Storage(url, patience_s), f".writable-{uuid.uuid4().hex}"
    storage.put(name, b"")
    storage.remove(name)
