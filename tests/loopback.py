"""A small HTTP server on loopback that notes what it is asked, and answers or misbehaves as a test says."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SOON = {"retry-after-ms": "10"}  # so that tests need not wait


class LoopbackServer(ThreadingHTTPServer):
    """Answers POST requests of JSON, each in a thread; a subclass says what with.

    `payloads`, and `asked` with the path of each, are in the order of the requests; `attempts` counts requests of the
    same text.
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.lock = threading.Lock()
        self.payloads, self.asked, self.keys, self.attempts, self.times = [], [], set(), Counter(), []
        self.busy = self.most_busy = 0

    def text(self, path: str, payload: dict) -> str:
        """What makes two requests the same one."""
        raise NotImplementedError

    def answer(self, path: str, payload: dict, attempt: int) -> tuple:
        """A status and a body, and headers instead of `retry-after-ms: 10`; without a status the connection ends."""
        raise NotImplementedError

    def handle_error(self, request, client_address):
        """A client that has given up an answer is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        payload, server = json.loads(self.rfile.read(int(self.headers["Content-Length"]))), self.server
        text = server.text(self.path, payload)
        with server.lock:
            server.attempts[text] += 1
            attempt = server.attempts[text]
            server.payloads.append(payload)
            server.asked.append((self.path, payload))
            server.times.append(time.monotonic())
            server.keys.add(self.headers["Authorization"])
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        status, body, *headers = server.answer(self.path, payload, attempt)
        with server.lock:
            server.busy -= 1
        if status is None:
            self.close_connection = True
            return
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers[0] if headers else SOON)}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def serving(make: Callable[..., LoopbackServer]) -> Iterator[Callable[..., LoopbackServer]]:
    """A function that makes and starts servers; all of them end with the context."""
    servers: list[LoopbackServer] = []

    def start(*arguments, **named) -> LoopbackServer:
        servers.append(make(*arguments, **named))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def restarting(
    server: LoopbackServer, requests: int, down_s: float, again: Callable[[int], object]
) -> tuple[Callable[[], None], threading.Thread]:
    """Has a server end after some requests and start again on its port.

    Returns what to call at each request, and the thread that ends when it has started again.

    Args:
        server: that is serving.
        requests: after which it ends.
        down_s: seconds until it starts again.
        again: starts a server on a port.
    """
    begun, port = threading.Semaphore(0), server.server_port

    def restart():
        for _ in range(requests):
            begun.acquire(timeout=10)
        server.shutdown()
        server.server_close()
        time.sleep(down_s)
        again(port)

    thread = threading.Thread(target=restart)
    thread.start()
    return begun.release, thread
