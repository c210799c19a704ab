"""A stage that runs once, in one process of one run: training, evaluation, and the like.

It is done when its record exists. Of several runs on a workdir one owns it (`cluster/files/ownership.py`), and the
others wait for its record. If the owner dies, the next one takes over, and `produce` may continue from the files it
finds.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from cluster.errors import InputError, RunError
from cluster.files.ownership import owned
from cluster.overwrite import name_of
from cluster.tables.fingerprint import check_fingerprint
from cluster.tables.records import read_record
from cluster.tables.storage import Storage
from cluster.watch.heartbeat import heartbeat_path
from cluster.watch.one_process_stage import OneProcessMonitor
from cluster.watch.progress import Progress

OWNERS = "logs/owners"  # a lock for each stage; not in the stage's folder, which --overwrite removes
_SLASH = "+"  # of a stage's name, in the name of its lock


def execute(
    storage: Storage,
    progress: Progress,
    name: str,
    fingerprint: dict[str, Any],
    produce: Callable[[], dict[str, Any]],
    title: str,
) -> dict[str, Any]:
    """The record of the stage `name` (JSON), by calling `produce` unless it is done already.

    An earlier run with the same fingerprint may have ended inside `produce`. Its files are then still in the stage's
    folder, and `produce` may continue from them. While another run is inside, this one waits for its record; should the
    other end without one, this one takes over.

    Raises:
        InputError: the stage was done, or begun, with another fingerprint.
        RunError: its plan cannot be read.
    """

    def say_that_it_waits(owner: str) -> None:
        progress.say(
            f"{progress.titled(title)}: {owner} works on it already. This run waits for its result, and takes over if "
            f"it ends without one. Its progress: listwise status {storage.url}"
        )

    if record := _record_of(storage, name, fingerprint):
        return record
    with _own(storage, name, on_wait=say_that_it_waits):
        is_new = storage.create(f"{name}/plan.json", json.dumps({"fingerprint": fingerprint}).encode())
        if not is_new and (record := _record_of(storage, name, fingerprint)):
            return record  # another run has done it meanwhile
        begun = time.monotonic()
        progress.current = None
        try:
            with OneProcessMonitor(Storage(storage.url), name, progress):
                record = produce()
        except InputError:
            if is_new:
                storage.remove(f"{name}/plan.json")
                storage.remove(heartbeat_path(name))
            raise
        record.setdefault("seconds", round(time.monotonic() - begun, 3))
        storage.put(f"{name}/record.json", json.dumps(record, indent=1).encode())
        if not progress.console.is_terminal:
            progress.say(f"{progress.titled(title)}: {record['seconds']:.1f} s")
        return record


@contextlib.contextmanager
def own_all(storage: Storage, covers: Callable[[str], bool]) -> Iterator[None]:
    """A context in which no other run works on a stage of one process whose folder `covers` accepts.

    Raises:
        InputError: another run does.
    """
    folder = storage.local_path
    locks = sorted((folder / OWNERS).glob("*.lock")) if folder else []
    with contextlib.ExitStack() as owners:
        for name in (lock.stem.replace(_SLASH, "/") for lock in locks):
            if not covers(name):
                continue
            try:
                owners.enter_context(_own(storage, name, wait_s=0))
            except TimeoutError as owner:
                raise InputError(
                    f"--overwrite: {owner} works on {name} in {storage.url}, so nothing was removed. Stop that run "
                    "first, or wait for its end."
                ) from None
        yield


def _own(
    storage: Storage, name: str, *, wait_s: float | None = None, on_wait: Callable[[str], None] = lambda owner: None
) -> contextlib.AbstractContextManager[None]:
    """A context in which no other run works on a stage. An object store has no locks: there all runs do the work."""
    if storage.local_path is None:
        return contextlib.nullcontext()
    file = storage.local_path / OWNERS / f"{name.replace('/', _SLASH)}.lock"
    return owned(file, wait_s=wait_s, on_wait=on_wait)


def _record_of(storage: Storage, name: str, fingerprint: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a stage that is done; None if it is not, or was not begun."""
    if not storage.exists(f"{name}/plan.json"):
        return None
    planned = (read_record(storage, f"{name}/plan.json") or {}).get("fingerprint")
    if not isinstance(planned, dict):
        raise RunError(
            f"{storage.url}/{name}/plan.json cannot be read. Do the stage and all after it again with --overwrite "
            f"{name_of(name)}."
        )
    check_fingerprint(name, name_of(name), planned, fingerprint)
    return read_record(storage, f"{name}/record.json")
