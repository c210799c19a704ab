"""Extraction: six types of queries out of a passage, the same ones every time, nothing invented."""

from __future__ import annotations

import asyncio

import pytest

from generation.engines.base import Request
from generation.engines.extractive import ExtractiveEngine, Frequencies, sentences, words
from generation.settings import QUERY_TYPES, GenerationSettings
from tests.corpus import ASPECTS, PLACES

TEXTS = [template.format(*place) for place in PLACES for template in ASPECTS]


@pytest.fixture(scope="module")
def engine() -> ExtractiveEngine:
    return ExtractiveEngine(GenerationSettings(), Frequencies.of(TEXTS))


def ask(engine: ExtractiveEngine, text: str, title: str = "", samples: int = 1):
    requests = [
        Request(f"p1:{kind}:{sample}", "p1", title, text, kind, sample)
        for kind in QUERY_TYPES
        for sample in range(samples)
    ]
    return dict(
        zip([(each.query_type, each.sample) for each in requests], asyncio.run(engine.answer(requests)), strict=True)
    )


def test_every_type_is_written_for_prose(engine):
    for text in TEXTS:
        for key, answer in ask(engine, text).items():
            assert answer.text, key


def test_queries_use_the_passage_s_own_words(engine):
    for text in TEXTS[:20]:
        for answer in ask(engine, text).values():
            assert set(words(answer.text)) <= set(words(text))


def test_same_request_gives_the_same_query_whatever_stands_beside_it(engine):
    together = ask(engine, TEXTS[0], samples=3)
    alone = Request("p1:search:2", "p1", "", TEXTS[0], "search", 2)
    assert asyncio.run(engine.answer([alone]))[0] == together["search", 2]


def test_types_differ_and_samples_add_to_them(engine):
    once, thrice = (
        len({answer.text for text in TEXTS for answer in ask(engine, text, samples=samples).values()})
        for samples in (1, 3)
    )
    assert once >= 3 * len(TEXTS)
    assert thrice >= 1.2 * once


def test_keywords_are_rarer_than_the_passage_s_words(engine):
    def rarity(found: list[str]) -> float:
        return sum(engine.frequencies.rarity(word) for word in found) / len(found)

    asked = [rarity(words(ask(engine, text)["keywords", 0].text)) for text in TEXTS]
    assert sum(asked) > sum(rarity(words(text)) for text in TEXTS)


@pytest.mark.parametrize(
    "text", [">>> import this\n>>> 1 + 1\n2", "=====  =====\na      b\n=====  =====", "x", "12 34"]
)
def test_passage_without_prose_yields_a_reason(engine, text):
    for (kind, _), answer in ask(engine, text).items():
        assert (answer.text is None) == (answer.reason == "nothing_to_extract"), kind
    assert ask(engine, text)["claim", 0].text is None


def test_title_of_the_passage_is_its_title_query(engine):
    assert ask(engine, TEXTS[0], title="Arlewick")["title", 0].text == "Arlewick"


def test_sentences_leave_code_and_tables_out():
    text = "The weir bridge is old and steep.\n\n>>> bridge.open()\nTrue\n\nIt was rebuilt twice, in stone."
    assert sentences(text) == ["The weir bridge is old and steep.", "It was rebuilt twice, in stone."]
