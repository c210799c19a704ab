"""The command by which Ray starts a worker: asks the fork server for it, and lives as long as the worker does.

Ray runs this file as a script; it imports the standard library alone, since it runs for every worker.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

VARIABLE = "LISTWISE_FORK_SERVER"
LENGTH_BYTES = 8
CONTEXT, LANGUAGE = "--serialized-runtime-env-context=", "--language="  # for Ray's own script, not for its worker


def send(connection: socket.socket, message: dict[str, Any], streams: tuple[int, ...] = ()) -> None:
    """Sends JSON, and open files."""
    data = json.dumps(message).encode()
    head = len(data).to_bytes(LENGTH_BYTES, "big")
    if streams:
        socket.send_fds(connection, [head], list(streams))
    else:
        connection.sendall(head)
    connection.sendall(data)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What `send` sent: the message, and descriptors of the files in this process."""
    head, streams, _, _ = socket.recv_fds(connection, LENGTH_BYTES, 3)
    with connection.makefile("rb") as file:
        data = file.read(int.from_bytes(head, "big"))
    return json.loads(data), list(streams)


def forked(arguments: list[str]) -> bool:
    """Has the server start a worker and waits until it has ended; False where that cannot be."""
    if VARIABLE not in os.environ or any(one.startswith(CONTEXT) for one in arguments):
        return False  # a runtime environment may name another Python
    arguments = [one for one in arguments if not one.startswith(LANGUAGE)]
    script = next((number for number, one in enumerate(arguments) if not one.startswith("-")), 0)
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    message = {"arguments": arguments[script:], "environment": environment, "folder": str(Path.cwd())}
    try:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(os.environ[VARIABLE])
        send(connection, message, (0, 1, 2))
    except OSError:
        return False
    connection.recv(1)  # returns when the worker has ended
    return True


def command(arguments: list[str]) -> list[str]:
    """The command by which Ray itself starts a worker."""
    if not any(one.startswith(CONTEXT) for one in arguments):
        return [sys.executable, *(one for one in arguments if not one.startswith(LANGUAGE))]
    import ray

    setup = Path(ray.__file__).parent / "_private" / "workers" / "setup_worker.py"
    return [sys.executable, str(setup), *arguments]


if __name__ == "__main__" and not forked(sys.argv[1:]):
    os.execv(sys.executable, command(sys.argv[1:]))
