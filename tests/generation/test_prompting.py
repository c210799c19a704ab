from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from cluster.errors import InputError
from generation.cleaning.clean import clean
from generation.engines.base import Request, SecondPassage
from generation.prompting import STYLES, Prompter, shown, unit_seed
from generation.query_types import load_types
from generation.settings import GenerationSettings, shipped_types

TEXT = "Pears keep longest just above freezing. " * 3


def request(query_type: str = "question", sample: int = 0, source: str = "p1", text: str = TEXT) -> Request:
    return Request(f"{source}:{query_type}:{sample}", source, "Storing pears", text, query_type, sample)


def prompter(**settings) -> Prompter:
    named = {"engine": "vllm", "model": "unused", "query_types": list(shipped_types())}
    return Prompter(GenerationSettings(**(named | settings)))


def completion(made: Prompter, asked: Request) -> str:
    return made.prompt(asked, "completion").text


@pytest.mark.parametrize("query_type", shipped_types())
def test_the_passage_stands_after_instruction_and_examples(query_type):
    made = prompter()
    prompt = made.prompt(request(query_type), "chat")
    examples = made.examples(request(query_type))
    assert prompt.examples == examples
    assert len(examples) == (0 if query_type == "search" else 3)
    text = prompt.messages[0]["content"]
    places = [text.index(made.types[query_type].instruction)]
    places += [text.index(written) for example in examples for written in (example.passage, f": {example.query}")]
    places += [text.index("Storing pears\nPears keep")]
    assert places == sorted(places)


@pytest.mark.parametrize("style", STYLES)
def test_the_clean_up_is_told_what_the_prompt_showed(style):
    made = prompter(prompt_characters=64, about="a shop for fruit")
    prompt = made.prompt(request("claim"), style)
    asked, text = prompt.asked("length"), " ".join(prompt.text.split())
    for part in (asked.passage, made.types["claim"].instruction, *(text for pair in asked.examples for text in pair)):
        assert " ".join(part.split()) in text
    assert "a shop for fruit" in asked.instruction
    assert (asked.query_type, asked.label, asked.is_cut) == ("claim", "Claim", True)
    assert len(asked.examples) == 3


def test_prompts_with_the_same_examples_differ_only_after_them():
    made = prompter(example_sets=1)
    one, other = (completion(made, asked) for asked in (request(), request(source="p2", text="Apples ripen early.")))
    common = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    assert one[:common].endswith("Passage: Storing pears\n")
    assert one[:common].count("Passage: ") == 4


def test_a_completion_prompt_ends_where_the_query_is_to_follow():
    assert completion(prompter(), request("claim")).endswith("freezing.\nClaim:")


def test_what_the_recipe_says_of_passages_and_language_is_in_every_prompt():
    about = "internal wiki of a hospital; nurses ask about dosage"
    made = prompter(about=about, language="de", system_prompt="You work in a library.")
    for query_type, style in itertools.product(shipped_types(), STYLES):
        prompt = made.prompt(request(query_type), style)
        assert about in prompt.text
        assert "in German" in prompt.text
        assert (prompt.about, prompt.language, prompt.system) == (about, "de", "You work in a library.")
        assert prompt.text.startswith("You work in a library.\n\n") == (style == "completion")
        assert prompt.messages[0] == {"role": "system", "content": "You work in a library."}
    plain = prompter().prompt(request(), "chat")
    assert "German" not in plain.text
    assert [message["role"] for message in plain.messages] == ["user"]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_no_more_examples_than_the_recipe_allows(count):
    assert len(prompter(examples=count).examples(request())) == count


@pytest.mark.parametrize("sets", [None, 4])
def test_examples_depend_on_seed_type_and_passage_alone(sets):
    asked = [request(kind, source=f"p{n}") for kind in ("question", "claim") for n in range(20)]
    first, second, other = (prompter(example_sets=sets, seed=seed) for seed in (0, 0, 1))
    chosen = {each.unit: first.examples(each) for each in asked}
    assert chosen == {each.unit: second.examples(each) for each in reversed(asked)}
    assert chosen != {each.unit: other.examples(each) for each in asked}
    assert first.examples(request(sample=0)) == first.examples(request(sample=3)), "samples share their prompt"
    for each in asked:
        pool = first.types[each.query_type].pool
        assert list(chosen[each.unit]) == sorted(chosen[each.unit], key=pool.index)


@pytest.mark.parametrize("sets", [1, 4, 20])
def test_a_type_has_as_many_sets_of_examples_as_the_recipe_says_and_they_share_no_pair_while_the_pool_lasts(sets):
    made = prompter(example_sets=sets)
    found = {made.examples(request(source=f"p{n}")) for n in range(1000)}
    assert len(found) == made.prefixes("question") == sets
    pairs = [pair.query for chosen in found for pair in chosen]
    size = len(made.types["question"].pool)
    if len(pairs) <= size:
        assert len(set(pairs)) == len(pairs)
    else:
        assert len(set(pairs)) > 0.8 * size


def test_every_example_is_shown_about_equally_often_where_sets_are_drawn_for_each_passage():
    made = prompter(examples=1, example_sets=None)
    pool = made.types["question"].pool
    draws = [made.examples(request(source=f"p{n}"))[0] for n in range(3000)]
    assert min(draws.count(pair) for pair in pool) > 0.6 * 3000 / len(pool)


def test_seeds_of_units_differ_and_fit_into_31_bits():
    seeds = {unit_seed(seed, f"p{n}:claim:0") for seed, n in itertools.product(range(3), range(1000))}
    assert len(seeds) == 3000
    assert max(seeds) < 2**31


def test_a_long_passage_is_cut_at_a_word_and_a_wordless_one_at_the_limit():
    assert shown(request(text="pears keep long"), 12) == ("Storing pears\npears keep",)
    assert shown(request(text="x" * 500), 100) == ("Storing pears\n" + "x" * 100,)


def test_a_type_with_two_hops_shows_both_passages_and_pairs_of_passages_before_them():
    second = SecondPassage("p2", "Cellars", "A cellar of clay holds nine degrees all year. " * 40)
    asked = replace(request("multi_hop", text="Pears ripen in warmth. " * 80), second=second)
    prompt = prompter(prompt_characters=200).prompt(asked, "completion")
    own, other = prompt.passage.split("\nCellars\n")
    assert own.startswith("Storing pears\nPears ripen")
    assert 150 < len(own.removeprefix("Storing pears\n")) + len(other) <= 200, "both share the limit"
    assert prompt.text.endswith(f"\nPassage: {own}\nSecond passage: Cellars\n{other}\nQuestion:")
    assert len(prompt.examples) == 3
    for pair in prompt.examples:
        assert f"Passage: {pair.passage}\nSecond passage: {pair.second_passage}\nQuestion: {pair.query}" in prompt.text
    known = prompt.asked()
    assert "Second passage" not in known.passage, "the clean-up takes words of the passage for the corpus' own"
    assert clean("Second passage: a cellar of clay", known).reason == "other_passage"
    assert clean("Do pears ripen faster in a kitchen than at nine degrees?", known).text


def test_markup_in_a_passage_is_shown_as_it_stands():
    assert "{{ 7 * 7 }} <b>&amp;</b>" in completion(prompter(), request(text="{{ 7 * 7 }} <b>&amp;</b>"))


def test_the_six_types_of_the_papers_are_asked_for_by_default():
    settings = GenerationSettings(engine="vllm", model="unused")
    assert list(load_types(settings)) == ["question", "claim", "title", "keywords", "search", "web_search"]


def test_two_letters_that_are_no_language_are_refused():
    with pytest.raises(ValueError, match="'xx' is no language code"):
        GenerationSettings(language="xx")
    assert "in Swiss German" in completion(prompter(language="Swiss German"), request())


def test_greedy_samples_are_refused_since_they_are_all_the_same():
    with pytest.raises(InputError, match="'question': 2 queries are asked for each passage at temperature 0"):
        prompter(temperature=0, samples=2)
