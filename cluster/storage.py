"""Files of a run, on a local disk or an object store, behind one small class over obstore.

Every write is atomic: a reader sees the whole object or none. `create` is the one primitive that decides races.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import LocalStore, from_url

from cluster.errors import InputError, RunError

# what a store raises that does not answer, is full, or refuses: worth waiting for
STORAGE_ERRORS = (BaseError, OSError)
SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")

T = TypeVar("T")


class StorageError(OSError):
    """A storage refused to give what was committed: no row's fault, whoever was reading."""


def patiently(call: Callable[[], T], url: str, limit_s: float) -> T:
    """Result of a call to a storage that may refuse for a while: tries again, waiting longer and longer.

    Raises:
        RunError: it has refused for `limit_s` seconds.
    """
    begun = time.monotonic()
    while True:
        try:
            return call()
        except STORAGE_ERRORS as error:
            failing = time.monotonic() - begun
            if failing > limit_s:
                raise storage_failed(url, failing, error) from error
            time.sleep(min(0.2 + failing / 2, 30.0))


def storage_failed(url: str, seconds: float, error: BaseException | str) -> RunError:
    """What a person is told about a storage that has refused for too long."""
    first = str(error).strip().partition("\n")[0]
    return RunError(
        f"the storage {url} has failed for {seconds:.0f} s, last: {first}. What is committed is kept; the same command "
        "continues from it."
    )


class Storage:
    """A folder, addressed by url; paths are relative to it and use `/`. Pickles as its url."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        scheme, separator, rest = url.partition("://")
        if separator and scheme != "file":
            if scheme not in SCHEMES:
                raise InputError(f"{url}: unknown storage '{scheme}://'; use a local path, s3://, gs:// or az://")
            self._local: Path | None = None
            # typed per backend by obstore; the url decides which one it is
            self._store: Any = cast(Any, from_url)(self.url, retry_config={"max_retries": 12})
            return
        self._local = Path(rest if separator else url).expanduser().absolute()
        self.url = str(self._local)
        try:
            self._local.mkdir(parents=True, exist_ok=True)
            self._store = LocalStore(self._local)
        except OSError as error:
            raise InputError(f"{self._local}: cannot be used as a folder ({error.strerror or error})") from error

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.url,)

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    @classmethod
    def open(cls, url: str) -> Storage:
        """Opens a local path, s3://, gs:// or az:// url; a local folder is created.

        Raises:
            InputError: unknown scheme, or a path that cannot be a folder.
        """
        return cls(url)

    @property
    def local_path(self) -> Path | None:
        """The folder on this machine, or None on an object store."""
        return self._local

    def child(self, prefix: str) -> Storage:
        """The folder `prefix` below this one."""
        return Storage(f"{self.url}/{prefix}")

    def put(self, path: str, data: bytes) -> None:
        """Writes an object, replacing what was there."""
        # one request, so that a failed write leaves nothing; multipart would be a stream into the final name
        self._store.put(path, data, use_multipart=False)

    def create(self, path: str, data: bytes) -> bool:
        """Writes an object if none is there. Of many callers exactly one gets True."""
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
        try:
            return self._store.get(path).bytes().to_bytes()
        except (NotFoundError, FileNotFoundError):
            raise KeyError(f"{self.url}/{path}") from None

    def buffer(self, path: str) -> pa.Buffer:
        """Like `get`, without a copy."""
        try:
            return pa.py_buffer(self._store.get(path).bytes())
        except (NotFoundError, FileNotFoundError):
            raise KeyError(f"{self.url}/{path}") from None

    def exists(self, path: str) -> bool:
        """Whether an object of this name is there."""
        try:
            self._store.head(path)
        except (NotFoundError, FileNotFoundError):
            return False
        return True

    def folders(self, prefix: str = "") -> list[str]:
        """Paths of the folders directly in `prefix`, sorted, without a look inside them."""
        return sorted(obstore.list_with_delimiter(self._store, prefix or None)["common_prefixes"])

    def list(self, prefix: str) -> list[str]:
        """Names of the objects in the folder `prefix` and below, sorted. Not for the hot path."""
        return sorted(meta["path"] for page in obstore.list(self._store, prefix or None) for meta in page)

    def remove(self, path: str) -> None:
        """Deletes one object, without a listing; it may be absent."""
        with contextlib.suppress(NotFoundError, FileNotFoundError):
            self._store.delete(path)

    def delete(self, prefix: str) -> int:
        """Deletes the object `prefix` and everything in the folder of that name; returns how many objects."""
        paths = self.list(prefix)
        if self.exists(prefix):
            paths.append(prefix)
        if self._local is not None:
            target = self._local / prefix
            if target.is_dir():
                shutil.rmtree(target, ignore_errors=True)
            else:
                target.unlink(missing_ok=True)
        elif paths:
            self._store.delete(paths)
        return len(paths)
