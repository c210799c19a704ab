from __future__ import annotations

import itertools

import pytest

from generation.cleaning import Asked, clean
from generation.engines.base import Request
from generation.prompting import Prompter, example_pool, query_prompts, shown, unit_seed
from generation.settings import QUERY_TYPES, GenerationSettings

TEXT = "Pears keep longest just above freezing. " * 3


def request(query_type: str = "question", sample: int = 0, source: str = "p1", text: str = TEXT) -> Request:
    return Request(f"{source}:{query_type}:{sample}", source, "Storing pears", text, query_type, sample)


def prompter(**settings) -> Prompter:
    return Prompter(GenerationSettings(engine="vllm", model="unused", **settings))


def test_every_query_type_has_a_prompt_and_every_example_serves_every_type_that_shows_some():
    assert tuple(query_prompts()) == QUERY_TYPES
    shown_with_examples = {name for name, kind in query_prompts().items() if kind.examples}
    assert shown_with_examples == set(QUERY_TYPES) - {"search"}
    for example in example_pool():
        assert example.keys() == {"passage"} | shown_with_examples
        for query_type in shown_with_examples:
            asked = Asked(example["passage"], query_type, query_prompts()[query_type].label, language="en")
            assert clean(example[query_type], asked).text == example[query_type]


@pytest.mark.parametrize("query_type", QUERY_TYPES)
def test_the_passage_stands_after_instruction_and_examples(query_type):
    made = prompter()
    prompt = made.messages(request(query_type))[0]["content"]
    examples = made.examples(request(query_type))
    assert len(examples) == (0 if query_type == "search" else 3)
    places = [prompt.index(query_prompts()[query_type].instruction)]
    places += [prompt.index(text) for example in examples for text in (example["passage"], example["query"])]
    places += [prompt.index("Storing pears\nPears keep")]
    assert places == sorted(places)


def test_the_clean_up_is_told_what_the_prompt_showed():
    made = prompter(prompt_characters=64)
    asked = made.asked(request("claim"), "length")
    prompt = " ".join(made.messages(request("claim"))[0]["content"].split())
    for part in (asked.passage, asked.instruction[-40:], *(text for pair in asked.examples for text in pair)):
        assert " ".join(part.split()) in prompt
    assert (asked.query_type, asked.label, asked.is_cut) == ("claim", "Claim", True)
    assert len(asked.examples) == 3


def test_prompts_with_the_same_examples_differ_only_after_them():
    made = prompter(examples=0)
    one, other = made.completion(request()), made.completion(request(source="p2", text="Apples ripen early."))
    common = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    assert one[:common].endswith("Passage: Storing pears\n")


def test_a_completion_prompt_ends_where_the_query_is_to_follow():
    assert prompter().completion(request("claim")).endswith("freezing.\nClaim:")


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_no_more_examples_than_the_recipe_allows(count):
    assert len(prompter(examples=count).examples(request())) == count


def test_examples_depend_on_seed_and_unit_alone():
    shuffled = [request(sample=sample) for sample in (3, 0, 2, 1)]
    first, second = prompter(), prompter()
    chosen = {r.unit: [e["passage"] for e in first.examples(r)] for r in shuffled}
    assert chosen == {r.unit: [e["passage"] for e in second.examples(r)] for r in reversed(shuffled)}
    assert len({tuple(passages) for passages in chosen.values()}) > 1
    assert chosen != {r.unit: [e["passage"] for e in prompter(seed=1).examples(r)] for r in shuffled}
    pool = [example["passage"] for example in example_pool()]
    assert all(passages == sorted(passages, key=pool.index) for passages in chosen.values())


def test_every_example_is_shown_about_equally_often():
    made = prompter(examples=1)
    draws = [made.examples(request(sample=sample))[0]["passage"] for sample in range(1000)]
    counts = [draws.count(example["passage"]) for example in example_pool()]
    assert min(counts) > 0.6 * 1000 / len(counts)


def test_seeds_of_units_differ_and_fit_into_31_bits():
    seeds = {unit_seed(seed, f"p{n}:claim:0") for seed, n in itertools.product(range(3), range(1000))}
    assert len(seeds) == 3000
    assert max(seeds) < 2**31


def test_a_long_passage_is_cut_at_a_word_and_a_wordless_one_at_the_limit():
    assert shown(request(text="pears keep long"), 12) == "Storing pears\npears keep"
    assert shown(request(text="x" * 500), 100) == "Storing pears\n" + "x" * 100


def test_markup_in_a_passage_is_shown_as_it_stands():
    assert "{{ 7 * 7 }} <b>&amp;</b>" in prompter().completion(request(text="{{ 7 * 7 }} <b>&amp;</b>"))
