"""A small HTTP server on loopback that speaks chats and completions, and misbehaves on request."""

from __future__ import annotations

import asyncio

from cluster.schemas import PASSAGES
from generation.engines.base import Request
from generation.engines.openai import OpenAIEngine
from generation.settings import GenerationSettings
from tests.loopback import LoopbackServer
from tests.tables import write_table


class Server(LoopbackServer):
    """Answers with `reply(payload, attempt)`."""

    def __init__(self, reply, port: int = 0) -> None:
        super().__init__(port)
        self.reply = reply

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def text(self, path, payload):
        return text_of(payload)

    def answer(self, path, payload, attempt):
        return self.reply(payload, attempt)


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
