"""A proxy in front of an S3 server. It can fail on demand, and it records every request."""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

Mode = Literal["pass", "slow down", "lose answers", "hang up", "drop conditions"]
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


@dataclass(frozen=True)
class Request:
    """A request that was passed on, with the status of the server's answer."""

    kind: str  # GET, PUT, HEAD, DELETE, POST, or LIST
    path: str
    status: int
    seconds: float  # time of the answer, monotonic clock


class FlakyS3:
    """A proxy to a server on loopback. Its `mode` decides what it does with a request.

    "pass" passes it on; "slow down" answers 503; "lose answers" passes it on and answers 503; "hang up" closes the
    connection; "drop conditions" passes it on without If-None-Match, as a proxy does that does not know the header.
    """

    def __init__(self, host: str, port: int) -> None:
        self.mode: Mode = "pass"
        self.requests: list[Request] = []
        self.refused = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                mode = proxy.mode
                if mode == "hang up":
                    proxy.refused += 1
                    self.close_connection = True
                    return
                if mode == "slow down":
                    proxy.refused += 1
                    self.send(503, {}, SLOW_DOWN)
                    return
                status, headers, answer = self.pass_on(body)
                if mode == "lose answers" and self.command in ("PUT", "POST", "DELETE"):
                    proxy.refused += 1
                    self.send(503, {}, SLOW_DOWN)
                    return
                self.send(status, headers, answer)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

            def pass_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
                connection = http.client.HTTPConnection(host, port, timeout=60)
                headers = dict(self.headers)
                if proxy.mode == "drop conditions":
                    headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                answer = response.read()
                connection.close()
                parts = urlsplit(self.path)
                is_list = self.command == "GET" and parse_qs(parts.query).keys() & {"list-type", "delimiter", "prefix"}
                kind = "LIST" if is_list else self.command
                proxy.requests.append(Request(kind, parts.path, response.status, time.monotonic()))
                return response.status, dict(response.getheaders()), answer

            def send(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                length = headers.pop("Content-Length", None) if self.command == "HEAD" else None
                for name, value in headers.items():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                        self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def commits(self, table: str) -> list[Request]:
        """Requests that created a commit record of a table."""
        return [
            request
            for request in list(self.requests)
            if request.kind == "PUT" and f"/{table}/commits/" in request.path and request.status == 200
        ]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
