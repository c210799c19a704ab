"""The style of prompts, tried on a server."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from cluster.errors import InputError
from generation import queries
from generation.type_figures import figures
from tests.generation.openai_server import completion, failure, passage_of, settings, sources


def record(made) -> dict:
    [path] = [path for path in made.storage.list("queries") if "prompt_style" in path]
    return json.loads(made.storage.get(path))


@pytest.mark.parametrize("better", ["chat", "completion"])
def test_auto_keeps_the_style_whose_answers_pass_more_often_and_says_why(serve, run, better):
    def reply(payload, _):
        style = "completion" if "prompt" in payload else "chat"
        return completion(f"where is {passage_of(payload)}?" if style == better else "I'm sorry, I cannot do that")

    server, made = serve(reply), run()
    passages = sources(made)
    chosen = settings(server.url, prompt="auto", query_types=["question", "title"], rows_per_shard=4)
    table = queries.build(made, chosen, passages)

    found = record(made)
    other = {"chat": "completion", "completion": "chat"}[better]
    assert found["style"] == better
    assert found["tried"][better]["kept"] == 8, "of two equal texts for a passage one is kept"
    assert found["tried"][other] == {"kept": 0, "asked": 16, "largest_drop": "refusal", "error": None}
    assert table.num_rows == 30
    assert sum(commit.accounted for commit in table.commits()) == 60
    styles = Counter("completion" if "prompt" in payload else "chat" for payload in server.payloads)
    trials = styles[other] // 16  # one for each worker that began before the record was there
    assert styles == {other: 16 * trials, better: 60 + 16 * trials}
    assert trials <= 2
    stats = sum((Counter(commit.stats) for commit in table.commits()), Counter())
    trial = {name: count for name, count in stats.items() if name.startswith("trial_")}
    assert trial == {f"trial_{better}_kept": 8}, "counted once, however many workers tried"
    assert sum(of_type.asked for of_type in figures(stats).values()) == 60
    log = made.storage.get("logs/queries.log").decode()
    assert f"prompts are written as {better}, type first: chat: {found['tried']['chat']['kept']} of 16 kept" in log


def test_a_server_without_completions_is_asked_in_chats_and_equals_are_chats_too(serve, run):
    def reply(payload, _):
        return failure(404, "no such route") if "prompt" in payload else completion(f"where is {passage_of(payload)}?")

    server, made = serve(reply), run()
    queries.build(made, settings(server.url, prompt="auto", query_types=["question"]), sources(made))
    assert record(made)["style"] == "chat"
    assert "no such route" in record(made)["why"]
    equal = run("equal")
    server = serve(lambda payload, _: completion(f"where is {passage_of(payload)}?"))
    queries.build(equal, settings(server.url, prompt="auto", query_types=["question"]), sources(equal))
    assert record(equal)["style"] == "chat"


def test_a_model_without_a_chat_is_asked_for_completions(serve, run):
    def reply(payload, _):
        chats = failure(400, "this model has no chat template")
        return completion(f"where is {passage_of(payload)}?") if "prompt" in payload else chats

    made = run()
    table = queries.build(made, settings(serve(reply).url, prompt="auto", query_types=["question"]), sources(made))
    assert record(made)["style"] == "completion"
    assert table.num_rows == 30


def test_where_no_style_works_the_run_ends_with_the_first_error(serve, run):
    made = run()
    server = serve(lambda *_: failure(401, "who are you"))
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        queries.build(made, settings(server.url, prompt="auto"), sources(made))
    assert not any("prompt_style" in path for path in made.storage.list("queries"))


def test_a_run_that_continues_keeps_the_style_that_was_decided(serve, run):
    server, made = serve(lambda payload, _: completion(f"where is {passage_of(payload)}?")), run()
    passages = sources(made)
    chosen = settings(server.url, prompt="auto", query_types=["question"], rows_per_shard=10)
    table = queries.build(made, chosen, passages)
    [path] = [path for path in made.storage.list("queries") if "prompt_style" in path]
    made.storage.put(path, json.dumps(record(made) | {"style": "completion"}).encode())
    for name in ("complete.", "commits/00001"):
        [removed] = [path for path in made.storage.list("queries") if path.startswith(f"queries/{name}")]
        made.storage.remove(removed)
    server.payloads.clear()
    assert queries.build(made, chosen, passages).num_rows == table.num_rows
    assert ["prompt" in payload for payload in server.payloads] == [True] * 10
