"""Layouts of prompts: what engines can share, in which order they are asked, and one JSON object for all types."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from itertools import pairwise

import pytest

from generation.collect import collect
from generation.engines.asking import ask_all
from generation.engines.base import Answer, Request, SecondPassage
from generation.engines.style import Decision, Kept, Trial
from generation.joint import joint_answers, joint_prompt, samples_of
from generation.prompting import Prompter
from generation.settings import GenerationSettings

TYPES = ["question", "claim", "title"]
TOPICS = ["harbour", "slate", "copper", "winter", "signal", "archive", "market", "bridge"]


def prompter(**settings) -> Prompter:
    return Prompter(GenerationSettings(engine="vllm", model="any", query_types=TYPES, **settings))


def requests(words: int = 60, samples: int = 1) -> list[Request]:
    return [
        Request(f"{topic}:{name}:{sample}", topic, f"On the {topic}", f"{topic} of the town. " * words, name, sample)
        for topic in TOPICS
        for name in TYPES
        for sample in range(samples)
    ]


def trie_size(texts: list[str]) -> int:
    """Characters of a prefix tree of the texts: what a cache without limits computes."""
    ordered = sorted(texts)
    size = len(ordered[0])
    for before, text in pairwise(ordered):
        shared = next((at for at, (a, b) in enumerate(zip(before, text, strict=False)) if a != b), len(before))
        size += len(text) - shared
    return size


@pytest.mark.parametrize("style", ["chat", "completion"])
@pytest.mark.parametrize(("layout", "sets"), [("type_first", 1), ("type_first", None), ("passage_first", 1)])
def test_what_is_left_to_compute_is_the_size_of_a_prefix_tree(style, layout, sets):
    made, asked = prompter(example_sets=sets), requests()
    texts = [made.prompt(request, style, layout).text for request in asked]
    fresh = made.fresh_characters(asked, style, layout)
    # the tree has the heads of the types, which a long run computes once, and shares words that two passages begin with
    assert fresh == pytest.approx(trie_size(texts), rel=0.12)
    assert fresh < 0.95 * sum(map(len, texts))


def test_the_passage_comes_first_where_it_is_long_and_the_types_share_it():
    made = prompter()
    long, short = requests(words=100), requests(words=2)
    assert made.fresh_characters(long, "chat", "passage_first") < made.fresh_characters(long, "chat", "type_first")
    assert made.fresh_characters(short, "chat", "passage_first") > made.fresh_characters(short, "chat", "type_first")
    text = made.prompt(long[0], "chat", "passage_first").text
    assert text.startswith("Passage: On the harbour\nharbour of the town.") and text.count("Another passage: ") == 3


@pytest.mark.parametrize(("layout", "runs"), [("type_first", 3 * 2), ("passage_first", 8), ("json", 8)])
def test_prompts_with_the_same_beginning_are_asked_one_after_the_other(layout, runs):
    made, asked = prompter(example_sets=2), requests(samples=2)
    beginnings: list[tuple[str, ...]] = []

    async def ask(samples: list[Request]) -> list[Answer]:
        beginnings.append(made.beginning(samples[0], layout))
        await asyncio.sleep(0)
        return [Answer(request.unit, request.unit, None, 1) for request in samples]

    answers = asyncio.run(ask_all(asked, asyncio.Semaphore(3), ask, made, layout))
    assert [answer.unit for answer in answers] == [request.unit for request in asked]
    changes = sum(first != second for first, second in pairwise(beginnings))
    assert changes + 1 == len(set(beginnings)) == runs
    assert len(beginnings) == (8 if layout == "json" else 24)


WHOLE = {"question": "What lies in the harbour?", "claim": "Boats lie in the harbour.", "title": "Boats of the harbour"}


@pytest.mark.parametrize(
    ("text", "finish", "kept", "reasons"),
    [
        (json.dumps(WHOLE), "stop", 3, {}),
        ("Here it is: " + json.dumps(WHOLE) + " I hope that this helps.", "stop", 3, {}),
        (json.dumps(WHOLE)[:-12], "length", 2, {"cut_at_limit": 1}),
        (json.dumps({**WHOLE, "claim": 7}), "stop", 2, {"not_in_json": 1}),
        (json.dumps({**WHOLE, "title": "I am sorry, but I cannot help with that."}), "stop", 2, {"refusal": 1}),
        ("[]", "stop", 0, {"not_in_json": 3}),
        ("no object", "stop", 0, {"not_in_json": 3}),
        ("", None, 0, {"not_in_json": 3}),
    ],
)
def test_every_type_of_an_object_is_kept_or_counted(text, finish, kept, reasons):
    made, asked = prompter(), requests()[:3]
    prompt = joint_prompt(made, asked, "chat")
    answers = joint_answers(asked, prompt, [(text, finish)], (90, 70, 50))
    output = collect(asked, answers, made.types)
    assert (output.rows.num_rows, output.drops) == (kept, reasons)
    assert (output.tokens, output.stats["prompt_tokens"], output.stats["cached_tokens"]) == (90, 70, 50)


def test_the_nth_query_of_a_type_is_in_the_nth_object():
    made, asked = prompter(), [request for request in requests(samples=2)[:6] if request.unit != "harbour:title:1"]
    prompt = joint_prompt(made, asked, "completion")
    assert samples_of(asked) == 2 and prompt.schema["required"] == TYPES and "harbour of the town" in prompt.text
    other = {name: f"{text[:-1]} today." for name, text in WHOLE.items()}
    written = [(json.dumps(one), "stop") for one in (WHOLE, other)]
    texts = [answer.text for answer in joint_answers(asked, prompt, written, (1, 1, 0))]
    assert texts == [WHOLE["question"], other["question"], WHOLE["claim"], other["claim"], WHOLE["title"]]
    lacking = joint_answers(asked, prompt, written[:1], (1, 1, 0))
    assert [answer.reason for answer in lacking] == [None, "not_in_json", None, "not_in_json", None]


class Writer:
    """An engine whose queries are good for some layouts, and none for the others."""

    styles = ("chat", "completion")
    style, layout = "chat", "type_first"

    def __init__(self, made: Prompter, good: set[str]) -> None:
        self.prompter, self.good, self.asked = made, good, Counter()

    async def answer(self, asked: list[Request]) -> list[Answer]:
        self.asked[self.style, self.layout] += len(asked)
        good = f"{self.style}, {self.layout}" in self.good
        return [
            Answer(one.unit, f"{one.query_type} {one.source_id}" if good else None, None if good else "empty", 1)
            for one in asked
        ]


@pytest.mark.parametrize(
    ("words", "good", "wanted", "expected"),
    [
        (100, {"chat, type_first", "chat, passage_first"}, {}, ("chat", "passage_first")),
        (100, {"chat, type_first"}, {}, ("chat", "type_first")),
        (100, {"completion, type_first", "completion, passage_first"}, {}, ("completion", "passage_first")),
        (2, {"chat, type_first", "chat, passage_first"}, {}, ("chat", "type_first")),
        (100, {"chat, type_first", "chat, passage_first"}, {"layout": "type_first"}, ("chat", "type_first")),
        (100, {"completion, json"}, {"layout": "json"}, ("completion", "json")),
        (100, {"chat, type_first", "chat, passage_first"}, {"prompt": "chat"}, ("chat", "passage_first")),
    ],
)
def test_auto_takes_the_layout_with_less_to_compute_unless_it_loses_queries(words, good, wanted, expected):
    settings = GenerationSettings(engine="vllm", model="any", query_types=TYPES, examples=1, **wanted)
    engine = Writer(Prompter(settings), good)

    def keep(asked: list[Request], answers: list[Answer]) -> Kept:
        return Kept(collect(asked, answers, engine.prompter.types).rows.num_rows, len(asked))

    decision = asyncio.run(Trial(settings, engine, requests(words), keep).decide())
    assert (decision.style, decision.layout) == expected
    assert Decision.from_bytes(decision.to_bytes()) == decision
    if words == 2 or "layout" in wanted:
        assert all(layout != "passage_first" for _, layout in engine.asked)


# ---- queries over two passages


def both(words: int = 60) -> list[Request]:
    """For every passage two types over it, and one over it and its neighbour."""
    second = SecondPassage("n", "Neighbour", "a neighbour of it. " * words)
    names = ("question", "claim", "multi_hop")
    return [
        Request(f"{topic}:{name}:0", topic, f"On the {topic}", f"{topic} of the town. " * words, name, 0,
                second if name == "multi_hop" else None)
        for topic in TOPICS
        for name in names
    ]  # fmt: skip


def made_for_both(**settings) -> Prompter:
    types = ["question", "claim", "multi_hop"]
    return Prompter(GenerationSettings(engine="vllm", model="any", query_types=types, **settings))


@pytest.mark.parametrize("layout", ["type_first", "passage_first"])
def test_what_two_passages_leave_to_compute_is_the_size_of_a_prefix_tree_too(layout):
    made, asked = made_for_both(example_sets=1, prompt_characters=4000), both()
    texts = [made.prompt(request, "chat", layout).text for request in asked]
    assert made.fresh_characters(asked, "chat", layout) == pytest.approx(trie_size(texts), rel=0.12)
    two = texts[2]
    assert two.index("Neighbour\na neighbour of it.") > two.index("On the harbour")
    assert ("Now for the first two passages." in two) == (layout == "passage_first")
    assert "Neighbour" not in texts[0]


def test_one_json_object_answers_the_types_over_one_passage_and_another_those_over_two():
    made, asked = made_for_both(), both()
    groups: list[list[Request]] = []

    async def ask(samples: list[Request]) -> list[Answer]:
        groups.append(samples)
        return [Answer(request.unit, "text", None, 0) for request in samples]

    answers = asyncio.run(ask_all(asked, asyncio.Semaphore(4), ask, made, "json"))
    assert [answer.unit for answer in answers] == [request.unit for request in asked]
    assert Counter(tuple(one.query_type for one in group) for group in groups) == {
        ("question", "claim"): len(TOPICS), ("multi_hop",): len(TOPICS),
    }  # fmt: skip
    one, two = (joint_prompt(made, group, "chat").text for group in (asked[:2], asked[2:3]))
    assert "Neighbour" not in one
    assert "for the passage at the end" in one
    assert (
        two.index("over the two passages") < two.index("Passage: On the harbour") < two.index("Second passage: Neigh")
    )
