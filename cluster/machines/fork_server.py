"""A process that workers of a Ray started here are forked from, so that libraries are imported once a session.

A worker of a dense stage imports torch, transformers and sentence-transformers, which takes seconds of a core; a run
starts such workers for every stage. Ray starts a worker as a command. Here that command is `fork_client.py`, which
hands arguments, environment and standard streams to this server, and lives as long as the worker. The server does not
import Ray, which reads the environment of each worker. Where it does not answer, workers start as they always do.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from cluster.machines.fork_client import VARIABLE, receive, send
from cluster.machines.own_folder import own_folder

LOOK_S = 1.0  # between two looks whether the session still lives
BACKLOG = 128  # workers that wait to be forked while libraries are imported
# what Ray itself imports in every worker, and what those of light stages need
FIRST = (
    "asyncio", "concurrent.futures", "google.protobuf.internal.builder", "jsonschema", "psutil", "requests", "yaml",
    "numpy", "pyarrow.compute", "pyarrow.parquet", "pydantic",
)  # fmt: skip

_running: list[ForkServer] = []


class ForkServer:
    """The server of this process's Ray session; a context in which Ray is to be started."""

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(dir=own_folder("fork")) + "/socket"
        # threads: libraries read the variable once, so workers raise the number themselves (`cluster.workers.threads`)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        # -P: modules in the folder of the call must not take the place of installed ones
        command = [sys.executable, "-P", "-m", "cluster.machines.fork_server", self.path, str(os.getpid())]
        package = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
        nothing = subprocess.DEVNULL  # what libraries say while they are imported is nobody's output
        self._process = subprocess.Popen(
            command, env=environment, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
        )

    def __enter__(self) -> ForkServer:
        _running.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        if kind is not None:
            self.close()

    def preload(self, modules: Iterable[str]) -> None:
        """Has modules imported before the next workers are forked; does not wait for it."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.path)
            send(connection, {"preload": list(modules)})

    def close(self) -> None:
        """Ends the server; workers live on."""
        if self in _running:
            _running.remove(self)
        self._process.kill()
        self._process.wait()
        _remove(self.path)


def preload(modules: Iterable[str]) -> None:
    """Has the server of this session import modules, if there is one."""
    for server in _running:
        server.preload(modules)


@contextlib.contextmanager
def started_by_server() -> Iterator[None]:
    """Inside, a Ray that is started has its workers forked by a new server; it ends with `close_all`.

    Not on a machine with GPUs: a library that looks for them cannot be forked any more.
    """
    if any(Path("/dev").glob("nvidia[0-9]*")):
        yield
        return
    from ray._private import parameter

    ours = str(Path(__file__).with_name("fork_client.py"))
    plain = parameter.RayParams

    class Parameters(plain):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.setup_worker_path = ours

    with ForkServer() as server:
        parameter.RayParams = Parameters  # type: ignore[misc]
        os.environ[VARIABLE] = server.path
        try:
            yield
        finally:
            parameter.RayParams = plain  # type: ignore[misc]
            del os.environ[VARIABLE]


def close_all() -> None:
    """Ends the servers that this process started."""
    while _running:
        _running[-1].close()


# ---- the server


def serve(path: str, parent: int) -> None:
    """Forks workers until the process `parent` has ended."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(BACKLOG)
    listener.settimeout(LOOK_S)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers
    _import(FIRST)
    while os.getppid() == parent:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        with contextlib.suppress(OSError, ValueError):
            message, streams = receive(connection)
            if "preload" in message:
                _import(message["preload"])
            elif os.fork() == 0:
                listener.close()
                _become_worker(message, streams)
            for stream in streams:
                os.close(stream)
        connection.close()
    _remove(path)  # the parent was killed: nobody else does it


def _import(modules: Iterable[str]) -> None:
    for module in modules:
        with contextlib.suppress(Exception):  # the worker that needs it will say what is wrong
            importlib.import_module(module)


def _remove(path: str) -> None:
    """Removes the socket and its folder."""
    with contextlib.suppress(OSError):
        Path(path).unlink()
        Path(path).parent.rmdir()


def _become_worker(message: dict[str, Any], streams: list[int]) -> None:
    """Runs Ray's worker in this process; the open connection tells the client how long it lives."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)  # Ray ends a worker with the group of its processes
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(message["folder"])
    os.environ.clear()
    os.environ.update(message["environment"])
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    sys.argv = message["arguments"]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))  # as for any script
    for folder in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if folder and folder not in sys.path:
            sys.path.insert(1, folder)
    status = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
