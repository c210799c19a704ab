"""A Ray head with its dashboard on loopback and its own token, and a proxy to it that can break all connections."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def plain_environment() -> dict[str, str]:
    """The environment of this process without the variables of Ray."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


class Head:
    """A cluster of one node with two cores. At its end it kills only its own processes, by their ids."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lw", dir="/tmp"))  # Unix sockets need short paths
        self.token = secrets.token_hex(32)
        self.token_file = self.folder / "token"
        self.token_file.write_text(self.token)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        environment = plain_environment() | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_worker_niceness": "0",
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        environment.pop("PYTHONPATH", None)  # a job must get the code in its parcel
        options = {
            "node-ip-address": "127.0.0.1", "port": free_port(), "dashboard-host": "127.0.0.1",
            "dashboard-port": self.port, "dashboard-agent-listen-port": free_port(),
            "dashboard-agent-grpc-port": free_port(), "ray-client-server-port": free_port(),
            "temp-dir": self.folder / "ray", "num-cpus": 2, "object-store-memory": 128 * 2**20,
        }  # fmt: skip
        words = [f"--{name}={value}" for name, value in options.items()]
        with (self.folder / "head.log").open("wb") as log:
            self.process = subprocess.Popen(
                [BIN / "ray", "start", "--head", "--block", "--disable-usage-stats", *words],
                stdout=log, stderr=log, env=environment, cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        request = urllib.request.Request(f"{self.url}/api/jobs/", headers={"Authorization": f"Bearer {self.token}"})
        limit = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(request, timeout=5).close()
                return
            except OSError:
                log = (self.folder / "head.log").read_text()
                assert self.process.poll() is None, log
                assert time.monotonic() < limit, log
                time.sleep(0.1)

    def close(self) -> None:
        """Ends the head and its children, and no other process."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        for process in [*children, self.process]:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                process.kill()
        self.process.wait(10)
        psutil.wait_procs(children, timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)


class Proxy:
    """A proxy to a port of this machine. After `cut` all connections are broken and new ones are refused."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._server: socket.socket | None = None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.restore()

    def restore(self) -> None:
        """Accepts connections (again)."""
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def cut(self) -> None:
        """Breaks all connections and refuses new ones."""
        if self._server:
            self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
            self._server = None
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    self._open |= {near, far}
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for connection in (source, sink):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
