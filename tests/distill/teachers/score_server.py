"""A server on loopback that scores pairs by shared words, speaks three protocols, and misbehaves on request."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from distill.settings.teachers import TeacherSettings

SOON = {"retry-after-ms": "10"}  # so that tests need not wait
MOST_CHARACTERS = 300  # of a pair that its model can hold, where a test says so


def words_shared(query: str, passage: str) -> float:
    """The score of a pair: shared words, and a little less for every character of the passage."""
    return len(set(query.split()) & set(passage.split())) - len(passage) / 1024


def sent(path: str, payload: dict) -> tuple[str, list[str]]:
    """Query and passages of a request, by the documentation of each protocol."""
    if path.endswith("/score"):
        return payload["text_1"], payload["text_2"]
    return payload["query"], payload["documents"] if "documents" in payload else payload["texts"]


def answer(path: str, payload: dict, order=reversed):
    """What a server answers, with the entries in another order than the passages."""
    query, passages = sent(path, payload)
    scores = [(index, words_shared(query, passage)) for index, passage in enumerate(passages)]
    usage = {"prompt_tokens": 7 * len(passages), "total_tokens": 7 * len(passages)}
    if path.endswith("/score"):
        data = [{"index": index, "object": "score", "score": score} for index, score in order(scores)]
        return {"id": "1", "object": "list", "created": 0, "model": "m", "data": data, "usage": usage}
    if "documents" in payload:
        results = [
            {"index": index, "document": {"text": passages[index]}, "relevance_score": score}
            for index, score in order(scores)
        ]
        return {"id": "1", "model": "m", "usage": usage, "results": results}
    return [{"index": index, "score": score} for index, score in order(scores)]


class ScoreServer(ThreadingHTTPServer):
    """Answers with `fault(path, payload, attempt)`, or with scores where that is None, and notes what is asked.

    A fault is a status, a body, and headers instead of `retry-after-ms: 10`; without a status the connection ends.
    """

    daemon_threads = True

    def __init__(self, fault, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.fault = fault
        self.lock = threading.Lock()
        self.asked, self.keys, self.attempts, self.times = [], set(), Counter(), []
        self.busy = self.most_busy = 0

    def handle_error(self, request, client_address):
        """A client that has given up an answer is no news."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"]))
        payload, server = json.loads(text), self.server
        with server.lock:
            server.attempts[text] += 1
            attempt = server.attempts[text]
            server.asked.append((self.path, payload))
            server.times.append(time.monotonic())
            server.keys.add(self.headers["Authorization"])
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        found = server.fault(self.path, payload, attempt)
        status, body, *headers = found or (200, answer(self.path, payload))
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


def failure(status: int, message: str):
    """A fault in the words of vLLM."""
    return status, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}}


def settings(url: str, **more) -> TeacherSettings:
    return TeacherSettings(**({"kind": "http", "base_url": url, "model": "m"} | more))
