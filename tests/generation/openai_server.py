"""A small HTTP server on loopback that speaks chats and completions, and misbehaves on request."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cluster.schemas import PASSAGES
from generation.engines.base import Request
from generation.engines.openai import OpenAIEngine
from generation.settings import GenerationSettings
from tests.tables import write_table

PATIENT = {"retry-after-ms": "10"}  # so that tests need not wait


class Server(ThreadingHTTPServer):
    """Answers with `reply(payload, attempt)`, and counts what is asked, and how much at a time.

    A reply is a status and a body, and headers instead of `retry-after-ms: 10`; without a status the connection ends.
    """

    daemon_threads = True

    def __init__(self, reply, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.reply = reply
        self.lock = threading.Lock()
        self.payloads, self.keys, self.attempts, self.times = [], set(), Counter(), []
        self.busy = self.most_busy = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt, server = text_of(payload), self.server
        with server.lock:
            server.attempts[prompt] += 1
            attempt = server.attempts[prompt]
            server.payloads.append(payload)
            server.times.append(time.monotonic())
            server.keys.add(self.headers["Authorization"])
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        status, body, *headers = server.reply(payload, attempt)
        with server.lock:
            server.busy -= 1
        if status is None:
            self.close_connection = True
            return
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers[0] if headers else PATIENT)}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def text_of(payload) -> str:
    """What the model was to read: the user's message, or a text to be completed."""
    return payload["prompt"] if "prompt" in payload else payload["messages"][-1]["content"]


def completion(*texts, finish="stop"):
    """Choices in the form of a chat and of a completion at once."""
    choices = [
        {"index": n, "finish_reason": finish, "message": {"role": "assistant", "content": text}, "text": text}
        for n, text in enumerate(texts)
    ]
    return 200, {
        "id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices,
        "usage": {"prompt_tokens": 10, "completion_tokens": 2 * len(texts), "total_tokens": 10 + 2 * len(texts)},
    }  # fmt: skip


def failure(status, message, code=None):
    return status, {"error": {"message": message, "type": "error", "code": code}}


def settings(url: str, **more) -> GenerationSettings:
    return GenerationSettings(**({"engine": "openai", "model": "m", "base_url": url, "prompt": "chat"} | more))


def requests(*texts: str, samples: int = 1) -> list[Request]:
    return [
        Request(f"p{n}:question:{sample}", f"p{n}", "", text, "question", sample)
        for n, text in enumerate(texts)
        for sample in range(samples)
    ]


def ask(chosen: GenerationSettings, asked: list[Request], style: str = "chat"):
    async def main():
        engine = OpenAIEngine(chosen)
        engine.style = style
        try:
            return await engine.answer(asked)
        finally:
            await engine.close()

    return asyncio.run(main())


def passage_of(payload) -> str:
    return text_of(payload).rsplit("Passage: ", 1)[1].split("\n")[0]


def sources(made, count: int = 30):
    rows = [{"passage_id": f"p{n}", "title": "", "text": f"place {n}", "is_source": True} for n in range(count)]
    return write_table(made.storage.url, PASSAGES, "passages", rows)
