"""A server that is away, busy, slow or wrong: nothing is lost, and what is wrong is said."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from itertools import pairwise

import pytest

from cluster import server_failures
from cluster.errors import InputError, ListwiseError, RunError
from cluster.settings import PoolSettings
from generation import queries
from generation.engines.asking import MOST_CHARACTERS
from tests.generation.openai_server import ask, completion, failure, passage_of, requests, settings, text_of
from tests.loopback import restarting


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, None])
def test_a_server_that_is_busy_for_a_moment_is_asked_again(serve, status):
    server = serve(lambda _, attempt: failure(status, "busy") if attempt < 3 else completion("where?"))
    assert [answer.text for answer in ask(settings(server.url), requests("pier", "mill"))] == ["where?", "where?"]
    assert set(server.attempts.values()) == {3}


def test_a_server_that_stays_busy_ends_the_run_with_what_to_do(serve):
    server = serve(lambda *_: failure(503, "no capacity"))
    with pytest.raises(RunError, match="no capacity") as error:
        ask(settings(server.url, patience_s=0.5), requests("pier"))
    assert "run again" in str(error.value)
    assert len(server.payloads) > 2, "it was asked again until the patience ended"


def test_a_server_that_is_not_there_ends_the_run_with_its_address_and_soon(monkeypatch):
    monkeypatch.setattr(server_failures, "START_PATIENCE_S", 0.2)  # it may never have been there
    with pytest.raises(RunError, match=r"127\.0\.0\.1:9/v1 does not answer, for 0\.2 s"):
        ask(settings("http://127.0.0.1:9/v1"), requests("pier"))


def test_a_server_that_dies_on_the_way_and_comes_back_loses_nothing(serve, caplog):
    """It ends after two answers, and starts again on the same port after it was missed."""

    def dying(payload, _):
        asked()
        return completion(f"where is {passage_of(payload)}?") if len(server.payloads) <= 2 else (None, "")

    server = serve(dying)
    asked, thread = restarting(
        server, 4, 0.3, lambda port: serve(lambda payload, _: completion(f"where is {passage_of(payload)}?"), port)
    )
    names = [f"pier {number}" for number in range(8)]
    answers = ask(settings(server.url, concurrency=2), requests(*names))
    thread.join()
    assert [answer.text for answer in answers] == [f"where is {name}?" for name in names]
    assert "does not answer; the request is sent again" in caplog.text
    assert caplog.text.count("sent again") == 1, "not a line for every request"


def test_a_slow_answer_is_given_up_and_asked_for_again(serve):
    def reply(_, attempt):
        if attempt == 1:
            time.sleep(0.6)
        return completion("where?")

    server = serve(reply)
    assert ask(settings(server.url, timeout_s=0.2), requests("pier"))[0].text == "where?"
    assert len(server.payloads) == 2
    with pytest.raises(RunError, match="does not answer"):
        ask(settings(serve(lambda *_: time.sleep(0.5)).url, timeout_s=0.1, patience_s=0.2), requests("pier"))


def test_what_the_server_asks_of_one_request_holds_for_all(serve):
    """Retry-After of the pier: until then the fort is not asked for, though the mill's answer has made room for it."""

    def reply(payload, attempt):
        if passage_of(payload) == "pier" and attempt == 1:
            return (*failure(429, "slow down"), {"Retry-After": "1"})
        time.sleep(0.1)
        return completion("where?")

    server = serve(reply)
    answers = ask(settings(server.url, concurrency=2), requests("pier", "mill", "fort"))
    assert [answer.text for answer in answers] == ["where?"] * 3
    first, second, *later = server.times
    assert second - first < 0.5
    assert len(later) == 2
    assert min(later) - first >= 1.0


def test_a_request_that_fails_alone_is_a_drop_and_the_others_are_kept(serve):
    def reply(payload, _):
        return failure(500, "index out of range") if passage_of(payload) == "odd" else completion("where?")

    server = serve(reply)
    answers = ask(settings(server.url), requests("odd", "pier", "mill"))
    assert [answer.reason for answer in answers] == ["server_error", None, None]
    assert Counter(map(passage_of, server.payloads))["odd"] == server_failures.MOST_FAILURES


def test_a_redirect_is_not_followed_since_passages_and_key_would_go_along(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-a-test")
    elsewhere = serve(lambda *_: completion("where?"))
    there = f"{elsewhere.url}/chat/completions"
    server = serve(lambda *_: (307, {}, {"Location": there}))
    with pytest.raises(InputError, match="redirects to") as error:
        ask(settings(server.url), requests("pier"))
    assert there in str(error.value)
    assert not elsewhere.payloads
    assert len(server.payloads) == 1


def test_an_account_without_credit_is_told_at_once(serve):
    server = serve(lambda *_: failure(429, "You exceeded your current quota", "insufficient_quota"))
    with pytest.raises(InputError, match="credit is used up"):
        ask(settings(server.url), requests("pier"))
    assert len(server.payloads) == 1


@pytest.mark.parametrize("body", ["<html>log in</html>", "no json"])
def test_an_address_that_is_no_such_server_is_named(serve, body):
    server = serve(lambda *_: (200, body, {"Content-Type": "text/html"}))
    with pytest.raises(InputError, match=r"no completion .*/v1"):
        ask(settings(server.url), requests("pier"))


def test_endless_text_and_nothing_are_drops(serve):
    """A server that pays no heed to max_tokens, or whose model loops."""

    def reply(payload, _):
        words = " ".join(f"word{n}" for n in range(200_000))
        return completion({"endless": f"where is {words}", "silent": ""}.get(passage_of(payload), "where?"))

    begun = time.monotonic()
    answers = ask(settings(serve(reply).url), requests("endless", "silent", "pier"))
    assert [answer.text for answer in answers] == [None, None, "where?"]
    assert answers[0].reason in ("cut_at_limit", "too_long", "several_lines")
    assert len(answers[0].dropped) <= MOST_CHARACTERS
    assert time.monotonic() - begun < 5


def test_a_passage_that_the_servers_model_cannot_hold_is_cut_at_a_sentence(serve):
    """The server holds 1,200 characters, and says so as vLLM's does."""
    sentences = [f"Sentence number {number} tells of the old pier." for number in range(60)]

    def reply(payload, _):
        if len(text_of(payload)) > 1200:
            return failure(400, "This model's maximum context length is 750 tokens. However, you requested 900 tokens")
        return completion(f"where is {len(passage_of(payload))}?")

    server = serve(reply)
    chosen = settings(server.url, prompt_characters=100_000, examples=0)
    long, short = ask(chosen, requests(" ".join(sentences), "A pier."))
    assert (long.is_cut, short.is_cut) == (True, False)
    shown = [passage_of(one) for one in server.payloads if "number 0" in text_of(one)][-1]
    kept = shown.split(". ")
    assert shown.endswith("old pier.")
    assert shown == " ".join(sentences[: len(kept)])
    assert 10 < len(kept) < 60


def test_a_limit_of_requests_and_of_tokens_spreads_them(serve):
    """Six requests at 1,200 a minute take a quarter of a second; of 20 tokens at 24,000 a minute as well."""
    server = serve(lambda *_: completion("where?"))
    ask(settings(server.url, requests_per_minute=1200), requests(*"abcdef"))
    gaps = [later - sooner for sooner, later in pairwise(server.times)]
    assert server.times[-1] - server.times[0] >= 0.24
    assert max(gaps) < 0.2
    server.times.clear()
    # what a prompt has is guessed before the first answer, and counted by the server after it: 12 of them
    ask(settings(server.url, tokens_per_minute=60_000, concurrency=1), requests(*"abcdef"))
    assert server.times[-1] - server.times[0] >= 5 * 60 * 12 / 60_000 * 0.9


def test_a_limit_is_shared_by_the_workers_of_the_pool_and_one_worker_is_enough(serve):
    limited = settings("http://x/v1", requests_per_minute=60)
    assert queries.place(limited).workers == 1
    assert queries.place(settings("http://x/v1")).workers is None
    three = settings("http://x/v1", requests_per_minute=60, pool=PoolSettings(workers=3))
    assert queries.place(three).workers == 3
    server = serve(lambda *_: completion("where?"))
    shared = settings(server.url, requests_per_minute=3000, pool=PoolSettings(workers=3))
    ask(shared, requests(*"abcdef"))
    assert server.times[-1] - server.times[0] >= 5 * 3 * 60 / 3000 * 0.9


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
    assert "key-of-a-test" not in json.dumps(queries.identity(settings(server.url), {}))


@pytest.mark.parametrize("status", [400, 404, 503])
def test_a_key_that_the_server_repeats_is_hidden(serve, monkeypatch, caplog, status):
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-a-test")
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ListwiseError, match=r"got \*\*\*") as error:
        ask(settings(serve(lambda *_: failure(status, "got key-of-a-test")).url, patience_s=0), requests("pier"))
    assert "key-of-a-test" not in str(error.value)
