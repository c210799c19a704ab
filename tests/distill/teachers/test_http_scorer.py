"""A teacher on a server: its scores, whatever the protocol, and what happens when the server is away, busy or wrong."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest
from pydantic import ValidationError

from cluster import server_failures
from cluster.errors import InputError, RunError
from cluster.settings import PoolSettings
from distill.retrieval import candidates
from distill.settings.retrieval import RetrievalSettings, RetrieverSettings
from distill.settings.teachers import TeacherSettings
from distill.teachers import probe_stage, scores
from distill.teachers.http_api import identity
from distill.teachers.http_scorer import HttpScorer
from distill.teachers.load import load_scorer, place
from tests.distill.conftest import POOL, Retrieved, open_run
from tests.distill.teachers.score_server import (
    MOST_CHARACTERS,
    ScoreServer,
    answer,
    failure,
    finely,
    sent,
    settings,
    words_shared,
)
from tests.loopback import restarting, serving

APIS = ("score", "rerank", "tei")
QUERIES = ["old maps of the harbour", "silver ore"]
PASSAGES = [f"the old harbour has {'many ' * (number % 7)}maps and ore number {number}" for number in range(9)]
PAIRS = [(query, passage) for query in QUERIES for passage in PASSAGES]
EXPECTED = np.array([words_shared(*pair) for pair in PAIRS], np.float32)


@pytest.fixture
def serve():
    with serving(ScoreServer) as start:
        yield start


@pytest.mark.parametrize("api", APIS)
def test_scores_are_the_servers_in_the_order_of_the_pairs_for_every_protocol(serve, api):
    server = serve()
    scorer = HttpScorer(settings(f"{server.url}/", api=api, batch_size=4))
    np.testing.assert_array_equal(scorer.score(PAIRS), EXPECTED)
    assert scorer.take_tokens() == (0 if api == "tei" else 7 * len(PAIRS))
    assert scorer.take_tokens() == 0
    assert {path for path, _ in server.asked} == {"/score" if api == "score" else "/rerank"}
    sizes = sorted(len(sent(*one)[1]) for one in server.asked)
    assert sizes == [1, 1, 4, 4, 4, 4], "one query a request, with at most four passages"
    assert len(scorer.score([])) == 0


def test_logits_are_asked_for_where_the_protocol_is_known_to_have_them_and_the_recipe_adds_fields(serve):
    server = serve()
    for api in APIS:
        HttpScorer(settings(server.url, api=api, engine_args={"instruction": "find maps"})).score(PAIRS[:1])
    score, rerank, tei = (payload for _, payload in server.asked)
    assert score["use_activation"] is False
    assert tei["raw_scores"] is True
    assert "use_activation" not in rerank
    assert {payload["instruction"] for payload in (score, rerank, tei)} == {"find maps"}
    assert (score["model"], rerank["model"], "model" in tei) == ("m", "m", False)


def test_requests_are_in_the_form_that_the_installed_vllm_reads_and_its_answers_are_read():
    protocol = pytest.importorskip("vllm.entrypoints.pooling.scoring.protocol")
    from pydantic import TypeAdapter

    from distill.teachers.http_api import body, read

    usage = {"prompt_tokens": 12, "total_tokens": 12}
    for api, request in (("score", protocol.ScoreRequest), ("rerank", protocol.RerankRequest)):
        chosen = settings("http://host", api=api)
        made = TypeAdapter(request).validate_python(body(chosen, "q", ["a", "b"]))
        assert (made.data_1, made.data_2) == ("q", ["a", "b"]) if api == "score" else made.documents == ["a", "b"]
        assert not made.model_extra, "it knows all fields"
        if api == "score":
            assert made.to_pooling_params().use_activation is False
            data = [protocol.ScoreResponseData(index=1, score=2.5), protocol.ScoreResponseData(index=0, score=-1)]
            said = protocol.ScoreResponse(model="m", data=data, usage=usage)
        else:
            results = [
                protocol.RerankResult(index=index, document={"text": "x"}, relevance_score=score)
                for index, score in ((1, 2.5), (0, -1))
            ]
            said = protocol.RerankResponse(id="1", model="m", usage=usage, results=results)
        values, tokens = read(chosen, said.model_dump(mode="json"), 2)
        assert (values.tolist(), tokens) == ([-1, 2.5], 12)


@pytest.mark.parametrize("status", [408, 424, 429, 500, 502, 503, None])
def test_a_server_that_is_busy_for_a_moment_is_asked_again(serve, status):
    server = serve(lambda path, payload, attempt: failure(status, "busy") if attempt < 3 else None)
    np.testing.assert_array_equal(HttpScorer(settings(server.url)).score(PAIRS), EXPECTED)
    assert set(server.attempts.values()) == {3}


def test_a_server_that_stays_busy_ends_the_run_with_what_to_do(serve):
    server = serve(lambda *_: failure(503, "no capacity"))
    with pytest.raises(RunError, match="503: no capacity") as error:
        HttpScorer(settings(server.url, patience_s=0.3)).score(PAIRS)
    assert "run again" in str(error.value)


def test_a_slow_answer_is_given_up_and_asked_for_again(serve):
    server = serve(lambda path, payload, attempt: time.sleep(0.6) if attempt == 1 else None)
    pairs = PAIRS[:3]
    np.testing.assert_array_equal(HttpScorer(settings(server.url, timeout_s=0.2)).score(pairs), EXPECTED[:3])
    assert len(server.asked) == 2


def test_a_server_that_is_not_there_ends_the_run_with_its_address_and_soon(monkeypatch):
    assert server_failures.START_PATIENCE_S <= 30
    monkeypatch.setattr(server_failures, "START_PATIENCE_S", 0.2)
    with pytest.raises(RunError, match=r"127\.0\.0\.1:9/rerank does not answer, for 0\.2 s"):
        HttpScorer(settings("http://127.0.0.1:9", api="rerank")).score(PAIRS)


def test_a_server_that_goes_away_and_comes_back_loses_nothing(serve, monkeypatch):
    monkeypatch.setattr(server_failures, "START_PATIENCE_S", 0.0)  # it was there, so it is waited for

    def dying(*_):
        asked()
        return None if len(server.asked) <= 2 else (None, "")

    server = serve(dying)
    asked, thread = restarting(server, 4, 0.2, lambda port: serve(port=port))
    scores_ = HttpScorer(settings(server.url, batch_size=3, concurrency=1)).score(PAIRS)
    thread.join()
    np.testing.assert_array_equal(scores_, EXPECTED)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "This model's maximum context length is 512 tokens. However, your prompt contains at least 513 input"),
        (413, "Input validation error: `inputs` must have less than 512 tokens. Given: 534"),
        (500, "input (2793 tokens) is too large to process (current batch size: 2048)"),
    ],
)
def test_a_pair_that_is_too_long_loses_the_end_of_its_passage_and_never_of_its_query(serve, status, words):
    def fault(path, payload, _):
        query, passages = sent(path, payload)
        return failure(status, words) if max(len(query + one) for one in passages) > MOST_CHARACTERS else None

    server = serve(fault)
    long = "old harbour " + "of the towns by the sea " * 40
    hopeless = "why " * 100
    pairs = [*PAIRS, (QUERIES[0], long), (QUERIES[0], "x" * 1000), (hopeless, long), (hopeless, "short")]
    found = HttpScorer(settings(server.url)).score(pairs)
    np.testing.assert_array_equal(found[: len(PAIRS)], EXPECTED)
    cut = {sent(*one)[1][0] for one in server.asked if len(sent(*one)[1]) == 1}
    shortest = min((one for one in cut if one.startswith("old harbour")), key=len)
    fitting = max(
        (one for one in cut if one.startswith("old harbour") and len(QUERIES[0] + one) <= MOST_CHARACTERS), key=len
    )
    assert found[len(PAIRS)] == np.float32(words_shared(QUERIES[0], fitting))
    assert long.startswith(f"{fitting} "), "at the end of a word"
    assert 100 < len(fitting) < len(long) / 2
    assert len(shortest) >= 32
    assert np.isfinite(found[len(PAIRS) + 1]), "a text without spaces is cut too"
    assert np.isnan(found[-2:]).all(), "the query leaves no room"
    assert {sent(*one)[0] for one in server.asked} == {*QUERIES, hopeless}


def test_a_server_that_takes_fewer_passages_gets_fewer_from_then_on(serve):
    def fault(path, payload, _):
        count = len(sent(path, payload)[1])
        return failure(422, f"batch size {count} > maximum allowed batch size 4") if count > 4 else None

    server = serve(fault)
    scorer = HttpScorer(settings(server.url, api="tei"))
    np.testing.assert_array_equal(scorer.score(PAIRS), EXPECTED)
    assert scorer.most_passages <= 4
    server.asked.clear()
    scorer.score(PAIRS)
    assert max(len(sent(*one)[1]) for one in server.asked) <= 4


@pytest.mark.parametrize(
    ("status", "words", "expected"),
    [
        (400, "unknown field top_q", "unknown field top_q.*engine_args"),
        (401, "bad key", "does not accept the key.*api_key_env"),
        (404, "The model `m` does not exist.", "has no model 'm'"),
        (422, "text_1: Field required", "text_1: Field required"),
    ],
)
def test_a_refusal_is_bad_input_in_the_servers_own_words_and_is_not_repeated(serve, status, words, expected):
    server = serve(lambda *_: failure(status, words))
    with pytest.raises(InputError, match=expected):
        HttpScorer(settings(server.url)).score(PAIRS[:1])
    assert len(server.asked) == 1


def test_a_missing_index_is_named_and_so_is_one_that_was_not_asked_about(serve):
    def without(index):
        return lambda scored: [one for one in scored if one[0] != index]

    for api in APIS:
        server = serve(lambda path, payload, _: (200, answer(path, payload, without(4))))
        with pytest.raises(InputError, match="asked about 9 passages and answers without index 4"):
            HttpScorer(settings(server.url, api=api)).score(PAIRS)
    server = serve(lambda path, payload, _: (200, answer(path, payload, lambda scored: [*scored, scored[0]])))
    with pytest.raises(InputError, match="about index 0 twice"):
        HttpScorer(settings(server.url)).score(PAIRS)
    server = serve(lambda *_: (200, [{"index": 12, "score": 1.0}]))
    with pytest.raises(InputError, match="about index 12"):
        HttpScorer(settings(server.url, api="tei")).score(PAIRS)


@pytest.mark.parametrize("body", [{"results": []}, [{"index": 0}], {"data": [{"index": 0, "score": "high"}]}])
def test_an_answer_of_another_protocol_is_named_with_what_was_expected(serve, body):
    server = serve(lambda *_: (200, body))
    with pytest.raises(InputError, match=r"no scores.*Expected \{\"data\".*api: one of score, rerank, tei"):
        HttpScorer(settings(server.url)).score(PAIRS)


def test_what_is_no_json_is_named_after_a_while(serve, monkeypatch):
    monkeypatch.setattr(server_failures, "START_PATIENCE_S", 0.1)
    with pytest.raises(RunError, match="no JSON"):
        HttpScorer(settings(serve(lambda *_: (200, "<html>log in</html>")).url)).score(PAIRS)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "null", "1e60"])
def test_a_score_that_is_not_finite_is_no_score_and_the_others_are_kept(serve, value):
    body = f'{{"data": [{{"index": 1, "score": {value}}}, {{"index": 0, "score": 2.5}}]}}'
    found = HttpScorer(settings(serve(lambda *_: (200, body)).url)).score(PAIRS[:2])
    assert found[0] == 2.5
    assert not np.isfinite(found[1])


def test_a_request_that_fails_alone_has_no_scores_and_the_others_are_kept(serve):
    server = serve(lambda path, payload, _: failure(500, "index") if sent(path, payload)[0] == QUERIES[0] else None)
    found = HttpScorer(settings(server.url)).score(PAIRS)
    assert np.isnan(found[:9]).all()
    np.testing.assert_array_equal(found[9:], EXPECTED[9:])
    assert max(server.attempts.values()) == server_failures.MOST_FAILURES


def test_the_key_reaches_the_server_and_no_message_and_no_redirect(serve, monkeypatch, caplog):
    monkeypatch.setenv("RERANKER_API_KEY", "key-of-a-test")
    caplog.set_level(logging.DEBUG)
    elsewhere = serve()
    server = serve(lambda *_: (307, {}, {"Location": f"{elsewhere.url}/score"}))
    with pytest.raises(InputError, match="redirects to") as error:
        HttpScorer(settings(server.url, api_key_env="RERANKER_API_KEY")).score(PAIRS)
    assert server.keys == {"Bearer key-of-a-test"}
    assert not elsewhere.asked
    assert error.value.__cause__ is None
    refusing = serve(lambda *_: failure(400, "got key-of-a-test"))
    with pytest.raises(InputError, match=r"got \*\*\*") as error:
        HttpScorer(settings(refusing.url, api_key_env="RERANKER_API_KEY")).score(PAIRS)
    assert "key-of-a-test" not in str(error.value) + caplog.text
    without = serve()
    HttpScorer(settings(without.url)).score(PAIRS)
    assert without.keys == {None}


def test_a_key_that_is_not_set_is_named_and_one_in_the_recipe_is_refused_unseen(monkeypatch):
    monkeypatch.delenv("RERANKER_API_KEY", raising=False)
    with pytest.raises(InputError, match="api_key_env names RERANKER_API_KEY, and that is not set"):
        HttpScorer(settings("http://host", api_key_env="RERANKER_API_KEY"))
    with pytest.raises(ValidationError, match="must be the name of an environment variable") as error:
        settings("http://host", api_key_env="sk-1234567890")
    assert "sk-1234567890" not in error.value.errors()[0]["msg"]


def test_requests_keep_to_the_limits_that_the_workers_share(serve):
    server = serve()
    limited = settings(server.url, requests_per_minute=1200, batch_size=3)
    assert place(limited).workers == 1
    assert place(settings(server.url)).workers is None
    load_scorer(limited).score(PAIRS)
    assert server.times[-1] - server.times[0] >= 0.24, "six requests, 50 ms apart"
    server.times.clear()
    shared = limited.model_copy(update={"requests_per_minute": 3600, "pool": PoolSettings(workers=3)})
    load_scorer(shared).score(PAIRS)
    assert server.times[-1] - server.times[0] >= 5 * 3 * 60 / 3600 * 0.9
    busy = serve(lambda *_: time.sleep(0.03))
    HttpScorer(settings(busy.url, batch_size=1, concurrency=2)).score(PAIRS)
    assert busy.most_busy == 2


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "base_url"),
        ({"base_url": "host:8000"}, "base_url"),
        ({"base_url": "http://host"}, "needs `model`"),
        ({"base_url": "http://host", "model": "m", "pool": {"gpus": 1}}, "no `pool.gpus`"),
        ({"base_url": "http://host", "model": "m", "template": "x"}, "`template` is a field of kind"),
        ({"base_url": "http://host", "model": "m", "path": "x"}, "`path` is a field of kind given"),
    ],
)
def test_fields_that_a_server_needs_or_cannot_have_are_named(fields, expected):
    with pytest.raises(ValidationError, match=expected):
        TeacherSettings(kind="http", **fields)
    TeacherSettings(kind="http", api="tei", base_url="http://host")


def test_how_a_server_is_reached_is_no_part_of_what_the_scores_are():
    one = settings("http://a", concurrency=3, timeout_s=5)
    assert identity(one) == identity(settings("http://b"))
    assert identity(one) != identity(settings("http://a", engine_args={"instruction": "x"}))
    nameless = [settings(url, api="tei", model=None) for url in ("http://a", "http://b")]
    assert identity(nameless[0]) != identity(nameless[1])


def test_a_stage_scores_all_candidates_on_a_server(serve, retrieved: Retrieved):
    server = serve()
    bm25 = RetrievalSettings(retrievers={"bm25": RetrieverSettings(kind="bm25")}, depth=12, min_candidates=2)
    proposed = candidates.build(retrieved.run, bm25, {}, retrieved.passages, retrieved.queries)
    teacher = settings(server.url, pool=POOL)
    table = scores.build(retrieved.run, "served", teacher, retrieved.encoder, proposed, retrieved.passages, bm25, {})
    rows = retrieved.passages.read().to_pylist()
    assert table.num_rows == proposed.num_rows > 50
    for scored, query in zip(table.read().to_pylist(), proposed.read().to_pylist(), strict=True):
        texts = [f"{rows[row]['title']} {rows[row]['text']}" for row in query["passage_rows"]]
        assert scored["passage_ids"] == query["passage_ids"]
        np.testing.assert_allclose(scored["scores"], [words_shared(query["text"], text) for text in texts], atol=1e-5)


def test_a_server_is_probed_before_anything_is_paid_for(serve, tmp_path, local_ray):
    with open_run(tmp_path / "run") as run:
        good = serve(lambda path, payload, _: (200, answer(path, payload, scored=finely)))
        table = probe_stage.build(run, "served", settings(good.url, pool=POOL))
        (verdict,) = table.read().to_pylist()
        assert verdict["right"] > 0.75
        same = serve(lambda path, payload, _: (200, answer(path, payload, scored=lambda *_: 0.5)))
        with pytest.raises(InputError, match=r"teachers\.same: the model cannot be used"):
            probe_stage.build(run, "same", settings(same.url, pool=POOL, model="other"))
        assert probe_stage.build(run, "trusted", settings(same.url, pool=POOL, probe=False)) is None
