"""A server on loopback that scores pairs by shared words, speaks three protocols, and misbehaves on request."""

from __future__ import annotations

import json
import re
import zlib

from distill.settings.teachers import TeacherSettings
from tests.loopback import LoopbackServer

MOST_CHARACTERS = 300  # of a pair that its model can hold, where a test says so


def words_shared(query: str, passage: str) -> float:
    """The score of a pair: shared words, and a little less for every character of the passage."""
    return len(set(query.split()) & set(passage.split())) - len(passage) / 1024


def sent(path: str, payload: dict) -> tuple[str, list[str]]:
    """Query and passages of a request, by the documentation of each protocol."""
    if path.endswith("/score"):
        return payload["text_1"], payload["text_2"]
    return payload["query"], payload["documents"] if "documents" in payload else payload["texts"]


def finely(query: str, passage: str) -> float:
    """Share of the query's words that the passage has, and a little that differs from pair to pair."""
    asked, said = (set(re.findall("[a-z]{3,}", text.lower())) for text in (query, passage))
    return len(asked & said) / len(asked) + zlib.crc32(f"{query} {passage}".encode()) / 2**32 * 1e-3


def answer(path: str, payload: dict, order=reversed, scored=words_shared):
    """What a server answers, with the entries in another order than the passages."""
    query, passages = sent(path, payload)
    scores = [(index, scored(query, passage)) for index, passage in enumerate(passages)]
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


class ScoreServer(LoopbackServer):
    """Answers with `fault(path, payload, attempt)`, or with scores where that is None."""

    def __init__(self, fault=lambda *_: None, port: int = 0) -> None:
        super().__init__(port)
        self.fault = fault

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def text(self, path, payload):
        return json.dumps(payload)

    def answer(self, path, payload, attempt):
        return self.fault(path, payload, attempt) or (200, answer(path, payload))


def failure(status: int, message: str):
    """A fault in the words of vLLM."""
    return status, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}}


def settings(url: str, **more) -> TeacherSettings:
    return TeacherSettings(**({"kind": "http", "base_url": url, "model": "m"} | more))
