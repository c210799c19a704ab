"""The engine against a small HTTP server on loopback that speaks chat completions and misbehaves on request."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cluster.errors import InputError, ListwiseError, RunError
from cluster.schemas import PASSAGES
from generation import queries
from generation.engines import openai as engine_module
from generation.engines.base import Request
from generation.engines.openai import OpenAIEngine
from generation.settings import GenerationSettings
from tests.tables import write_table


class Server(ThreadingHTTPServer):
    """Answers with `reply(payload, attempt)`: (status, body). Counts what is asked, and how much at a time."""

    daemon_threads = True

    def __init__(self, reply) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply
        self.lock = threading.Lock()
        self.payloads, self.keys, self.attempts = [], set(), Counter()
        self.busy = self.most_busy = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt, server = payload["messages"][0]["content"], self.server
        with server.lock:
            server.attempts[prompt] += 1
            attempt = server.attempts[prompt]
            server.payloads.append(payload)
            server.keys.add(self.headers["Authorization"])
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        status, body = server.reply(payload, attempt)
        with server.lock:
            server.busy -= 1
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("retry-after-ms", "10")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def completion(text, finish="stop"):
    message = {"role": "assistant", "content": text}
    return 200, {
        "id": "1", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
    }  # fmt: skip


def failure(status, message, code=None):
    return status, {"error": {"message": message, "type": "error", "code": code}}


@pytest.fixture
def serve():
    servers = []

    def start(reply) -> Server:
        servers.append(Server(reply))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def settings(url: str, **more) -> GenerationSettings:
    return GenerationSettings(engine="openai", model="m", base_url=url, **more)


def requests(*texts: str) -> list[Request]:
    return [Request(f"p{n}:question:0", f"p{n}", "", text, "question", 0) for n, text in enumerate(texts)]


def ask(chosen: GenerationSettings, asked: list[Request]):
    async def main():
        engine = OpenAIEngine(chosen)
        try:
            return await engine.answer(asked)
        finally:
            await engine.close()

    return asyncio.run(main())


def passage_of(payload) -> str:
    return payload["messages"][0]["content"].rsplit("Passage: ", 1)[1].split("\n")[0]


def test_answers_come_clean_and_in_the_order_of_the_requests(serve):
    server = serve(lambda payload, _: completion(f'Question: "where is {passage_of(payload)}?"\nbecause'))
    answers = ask(settings(server.url), requests("pier", "mill", "fort"))
    assert [answer.text for answer in answers] == ["where is pier?", "where is mill?", "where is fort?"]
    assert [answer.unit for answer in answers] == ["p0:question:0", "p1:question:0", "p2:question:0"]
    assert {answer.tokens for answer in answers} == {12}


def test_sampling_and_further_fields_are_sent(serve):
    server = serve(lambda *_: completion("where?"))
    chosen = settings(server.url, temperature=0.3, max_tokens=17, engine_args={"top_p": 0.5})
    ask(chosen, requests("pier"))
    sent = server.payloads[0]
    assert {name: sent[name] for name in ("model", "temperature", "max_tokens", "top_p")} == {
        "model": "m", "temperature": 0.3, "max_tokens": 17, "top_p": 0.5,
    }  # fmt: skip
    ask(settings(server.url, engine_args={"max_completion_tokens": 9}), requests("pier"))
    assert "max_tokens" not in server.payloads[1]


def test_no_more_requests_are_in_flight_than_the_recipe_allows(serve):
    gate = threading.Semaphore(0)

    def reply(*_):
        gate.acquire(timeout=0.2)
        return completion("where?")

    server = serve(reply)
    ask(settings(server.url, concurrency=3), requests(*(f"pier {n}" for n in range(12))))
    assert server.most_busy == 3
    assert len(server.payloads) == 12


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_for_a_moment_is_asked_again(serve, status):
    server = serve(lambda _, attempt: failure(status, "busy") if attempt < 3 else completion("where?"))
    assert [answer.text for answer in ask(settings(server.url), requests("pier", "mill"))] == ["where?", "where?"]
    assert set(server.attempts.values()) == {3}


def test_a_server_that_stays_busy_ends_the_run_with_what_to_do(serve, monkeypatch):
    monkeypatch.setattr(engine_module, "MAX_RETRIES", 1)
    server = serve(lambda *_: failure(503, "no capacity"))
    with pytest.raises(RunError, match="no capacity") as error:
        ask(settings(server.url), requests("pier"))
    assert "run again" in str(error.value)


def test_a_server_that_is_not_there_ends_the_run_with_its_address(serve, monkeypatch):
    monkeypatch.setattr(engine_module, "MAX_RETRIES", 1)
    with pytest.raises(RunError, match=r"127\.0\.0\.1:9/v1 does not answer"):
        ask(settings("http://127.0.0.1:9/v1"), requests("pier"))


def test_a_refused_prompt_is_a_drop_and_the_others_are_kept(serve):
    def reply(payload, _):
        if passage_of(payload) == "long":
            return failure(400, "too many tokens", "context_length_exceeded")
        if passage_of(payload) == "odd":
            return failure(400, "policy")
        if passage_of(payload) == "filtered":
            return completion("", finish="content_filter")
        return completion(None) if passage_of(payload) == "silent" else completion("where?")

    answers = ask(settings(serve(reply).url), requests("long", "pier", "odd", "filtered", "silent"))
    assert [answer.reason for answer in answers] == [
        "prompt_too_long", None, "refused_by_server", "content_filter", "empty",
    ]  # fmt: skip


def test_a_server_that_refuses_everything_is_a_mistake_of_the_recipe(serve):
    server = serve(lambda *_: failure(400, "unknown field top_q"))
    with pytest.raises(InputError, match="unknown field top_q"):
        ask(settings(server.url, engine_args={"top_q": 1}), requests("pier", "mill"))


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "no model 'm'")]
)
def test_a_wrong_key_or_model_is_named(serve, status, advice):
    with pytest.raises(InputError, match=advice):
        ask(settings(serve(lambda *_: failure(status, "no")).url), requests("pier"))


def test_the_key_reaches_the_server_and_no_message(serve, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-a-test")
    server = serve(lambda *_: failure(401, "bad key"))
    caplog.set_level(logging.DEBUG)
    with pytest.raises(InputError) as error:
        ask(settings(server.url), requests("pier"))
    assert server.keys == {"Bearer key-of-a-test"}
    assert "key-of-a-test" not in str(error.value) + caplog.text
    assert error.value.__cause__ is None
    assert "key-of-a-test" not in json.dumps(queries.identity(settings(server.url)))


@pytest.mark.parametrize("status", [400, 404, 503])
def test_a_key_that_the_server_repeats_is_hidden(serve, monkeypatch, caplog, status):
    monkeypatch.setattr(engine_module, "MAX_RETRIES", 0)
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-a-test")
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ListwiseError, match=r"got \*\*\*") as error:
        ask(settings(serve(lambda *_: failure(status, "got key-of-a-test")).url), requests("pier"))
    assert "key-of-a-test" not in str(error.value)


def test_a_stage_over_the_server_accounts_for_every_unit_and_is_done_once(serve, run, tmp_path):
    server = serve(lambda payload, _: completion(f"where is {passage_of(payload)}?"))
    made = run()
    rows = [{"passage_id": f"p{n}", "title": "", "text": f"place {n}", "is_source": n % 3 != 0} for n in range(10)]
    passages = write_table(made.storage.url, PASSAGES, "passages", rows)
    chosen = settings(server.url, samples=2, query_types=["question", "search"], rows_per_shard=4)

    table = queries.build(made, chosen, passages)

    assert table.complete
    assert sum(commit.accounted for commit in table.commits()) == 6 * 2 * 2
    # the server says the same each time: of four queries of a source one is new
    assert table.num_rows == 6
    assert sum(commit.drops["duplicate"] for commit in table.commits()) == 18
    assert table.read()["text"].to_pylist() == [f"where is place {n}?" for n in (1, 2, 4, 5, 7, 8)]
    asked = len(server.payloads)
    assert asked == 24
    assert queries.build(made, chosen.model_copy(update={"concurrency": 7}), passages).fingerprint == table.fingerprint
    assert len(server.payloads) == asked
    with pytest.raises(InputError, match="temperature"):
        queries.build(made, chosen.model_copy(update={"temperature": 0.1}), passages)
