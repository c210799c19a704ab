from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cluster.errors import InputError
from generation.query_types import load_types, per_source, same_for_all, units_of
from generation.settings import QUERY_TYPES, GenerationSettings, shipped_types


def settings(**more) -> GenerationSettings:
    return GenerationSettings(**({"engine": "vllm", "model": "m"} | more))


def types_in(folder: Path, files: dict[str, str], **more) -> GenerationSettings:
    for name, text in files.items():
        (folder / name).write_text(text)
    named = [Path(name).stem for name in files if Path(name).stem.isidentifier()]
    return settings(**({"types_folder": str(folder), "query_types": named} | more))


def refusal(generation: GenerationSettings) -> str:
    with pytest.raises(InputError) as caught:
        load_types(generation)
    return str(caught.value)


def test_every_shipped_type_has_all_that_a_prompt_needs():
    types = load_types(settings(query_types=list(shipped_types())))
    assert tuple(types)[:6] == QUERY_TYPES
    assert set(types) - set(QUERY_TYPES) == {
        "ambiguous", "multi_aspect", "how_to", "comparison", "negation", "multi_hop",
    }  # fmt: skip
    assert len({kind.instruction for kind in types.values()}) == len(types)
    assert {name for name, kind in types.items() if kind.examples == 0} == {"search"}
    assert {kind.weight for kind in types.values()} == {1.0}


# ---- a folder of one's own


def test_a_file_adds_a_type_and_another_replaces_one(tmp_path: Path) -> None:
    generation = types_in(
        tmp_path,
        {
            "symptom.yaml": "label: Complaint\ninstruction: Write what a patient says.\nstop: ['.']\n"
            "min_characters: 8\nmax_characters: 90\nmax_tokens: 20\nweight: 2\nlanguage: fr\n"
            "sampling: {temperature: 1.1, top_p: 0.9}\n"
            "examples:\n- {passage: Fever over 39., query: my child is hot}\n",
            "claim.yml": "instruction: Write a bold claim.\n",
        },
        query_types=["question", "symptom", "claim"],
        top_k=50,
        language="de",
    )
    types = load_types(generation)
    assert list(types) == ["question", "symptom", "claim"]
    own = types["symptom"]
    assert (own.label, own.instruction, own.stop) == ("Complaint", "Write what a patient says.", (".",))
    assert (own.min_characters, own.max_characters, own.max_tokens, own.weight) == (8, 90, 20, 2)
    assert own.sampling == {"temperature": 1.1, "top_p": 0.9, "top_k": 50}
    assert [(pair.passage, pair.query) for pair in own.pool] == [("Fever over 39.", "my child is hot")]
    assert own.examples == 1, "no more than there are"
    assert (own.language, types["claim"].language) == ("fr", "de")
    assert (types["claim"].label, types["claim"].instruction) == ("Claim", "Write a bold claim.")
    shipped = load_types(settings())
    assert types["claim"].pool == shipped["claim"].pool, "examples of the name stay where the file has none"
    assert types["question"] == load_types(settings(top_k=50, language="de"))["question"]


def test_a_type_extends_another_and_says_only_what_differs(tmp_path: Path) -> None:
    generation = types_in(
        tmp_path,
        {
            "frage.yaml": "extends: question\nlanguage: de\nweight: 0.5\n",
            "question.yaml": "extends: question\nsampling: {temperature: 0.5, top_p: 0.9}\n",
            "kurz.yaml": "extends: ambiguous\nlabel: Suche\nsampling: {top_k: 9}\n",
        },
    )
    types, shipped = load_types(generation), load_types(settings(query_types=["question", "ambiguous"]))
    question, frage, kurz = types["question"], types["frage"], types["kurz"]
    assert question.instruction == frage.instruction == shipped["question"].instruction
    assert frage.pool == question.pool == shipped["question"].pool
    assert frage.sampling == question.sampling == {"temperature": 0.5, "top_p": 0.9}
    assert (frage.language, frage.weight, question.language, question.weight) == ("de", 0.5, None, 1.0)
    assert (frage.label, question.label, kurz.label) == ("Question", "Question", "Suche")
    assert (kurz.max_characters, kurz.sampling) == (40, {"temperature": 0.8, "top_k": 9})


GOOD = "instruction: Write a complaint.\n"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("instruction: x\nwieght: 2\n", 2, "unknown key `wieght`; did you mean `weight`?"),
        ("label: Complaint\n", 1, "`instruction` is missing (what to write, told to the language model)"),
        (GOOD + "label: ''\n", 2, "`label` is ''"),
        (GOOD + "label: 'Query: '\n", 2, "`label`: a label is a word or two on one line"),
        (GOOD + "weight: -1\n", 2, "`weight` is -1: input should be greater than 0"),
        (GOOD + "weight: 0\n", 2, "`weight` is 0"),
        (GOOD + "weight: .inf\n", 2, "`weight` is inf"),
        (GOOD + "weight: heavy\n", 2, "`weight` is 'heavy'"),
        (GOOD + "stop: '.'\n", 2, "`stop` is '.': input should be a valid list"),
        (GOOD + "stop:\n- '.'\n- 5\n", 4, "`stop.1` is 5"),
        (GOOD + "stop: ['']\n", 2, "`stop`: an empty text stops every answer"),
        (GOOD + "language: xx\n", 2, "`language`: 'xx' is no language code known here"),
        (GOOD + "min_characters: 9\nmax_characters: 5\n", 1, "min_characters is 9, more than max_characters, 5"),
        (GOOD + "sampling: {temprature: 1}\n", 2, "unknown key `sampling.temprature`; did you mean"),
        (GOOD + "sampling: {top_p: 2}\n", 2, "`sampling.top_p` is 2"),
        (GOOD + "temperature: 1\n", 2, "unknown key `temperature`; did you mean `sampling.temperature`?"),
        (GOOD + "examples:\n- passage: p\n  qurey: q\n", 4, "unknown key `examples.0.qurey`"),
        (GOOD + "examples:\n- {passage: p, query: q}\n- {passage: p}\n", 4, "`examples.1.query` is missing"),
        (GOOD + "hops: 3\n", 2, "`hops` is 3"),
        (GOOD + "hops: 2\nexamples:\n- {passage: p, query: q}\n", 3, "asks for two passages (hops: 2)"),
        (GOOD + "examples:\n- {passage: p, second_passage: s, query: q}\n", 2, "asks for one passage"),
        (GOOD + "extends: questoin\n", 2, "there is no query type 'questoin'; did you mean 'question'?"),
        (GOOD + "instruction: again\n", 2, "`instruction` stands here a second time"),
        (GOOD + "stop: [\n", 3, "not valid YAML"),
        ("- a\n- list\n", 1, "expected fields such as `instruction:`"),
        ("", 1, "expected fields such as `instruction:`"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_file_and_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    message = refusal(types_in(tmp_path, {"complaint.yaml": text}))
    place = f"{tmp_path / 'complaint.yaml'}, line {line}"
    assert any(place in told and said in told for told in message.splitlines()), message


def test_all_mistakes_of_a_file_are_told_at_once_in_its_order(tmp_path: Path) -> None:
    message = refusal(types_in(tmp_path, {"complaint.yaml": "weight: -1\nlabl: X\nstop: 3\n"}))
    assert message.startswith(f"the query type {tmp_path / 'complaint.yaml'} has 4 problems:")
    told = [message.index(part) for part in ("line 1: `weight`", "line 2: unknown key `labl`", "line 3: `stop`")]
    assert told == sorted(told)
    assert "`instruction` is missing" in message


def test_two_types_of_one_name_and_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    double = types_in(tmp_path, {"a.yaml": GOOD, "a.yml": GOOD}, query_types=["a"])
    assert f"{tmp_path / 'a.yaml'} and {tmp_path / 'a.yml'} are both a type 'a'" in refusal(double)
    (tmp_path / "empty").mkdir()
    assert "holds no .yaml file" in refusal(settings(types_folder=str(tmp_path / "empty")))
    assert "there is no folder" in refusal(settings(types_folder=str(tmp_path / "missing")))
    (tmp_path / "named").mkdir()
    assert "use letters" in refusal(types_in(tmp_path / "named", {"a b.yaml": GOOD}, query_types=["question"]))


def test_a_chain_of_extensions_is_refused_at_its_line(tmp_path: Path) -> None:
    files = {"a.yaml": "extends: b\n", "b.yaml": "extends: c\n", "c.yaml": GOOD}
    assert f"{tmp_path / 'a.yaml'}, line 1: 'b' extends 'c' itself" in refusal(types_in(tmp_path, files))
    round_trip = {"a.yaml": "extends: b\n", "b.yaml": "extends: a\n", "c.yaml": GOOD}
    assert "extends 'a' itself" in refusal(types_in(tmp_path, round_trip))


def test_a_type_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    generation = types_in(tmp_path, {"complaint.yaml": GOOD}, query_types=["complant"])
    assert "there is no query type 'complant'; did you mean 'complaint'?" in refusal(generation)
    with pytest.raises(ValueError, match="there is no query type 'questions'; did you mean 'question'"):
        settings(query_types=["questions"])
    with pytest.raises(ValueError, match="query_types names claim twice"):
        settings(query_types=["claim", "claim"])
    with pytest.raises(ValueError, match="weights: there is no query type 'titel'; did you mean 'title'"):
        settings(weights={"titel": 2})


def test_an_engine_without_a_language_model_is_not_asked_for_types_that_it_cannot_write():
    generation = GenerationSettings(query_types=["question", "negation"])
    assert "the engine extractive writes question, claim" in refusal(generation)


def test_a_recipe_with_a_mistake_in_a_type_is_refused_before_anything_is_written(tmp_path: Path, hundred: Path) -> None:
    from launcher import pipeline
    from launcher.recipe import Recipe

    (tmp_path / "types").mkdir()
    generation = types_in(tmp_path / "types", {"complaint.yaml": "wieght: 2\n"}, engine="extractive", model=None)
    recipe = Recipe(
        name="x", workdir=str(tmp_path / "run"), corpus={"path": str(hundred)}, teachers={"bm25": {"kind": "bm25"}},
        student={"model": "all-MiniLM-L6-v2"}, training={}, generation=generation.model_copy(
            update={"query_types": ["question"]}
        ),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"complaint\.yaml, line 1: unknown key `wieght`"):
        pipeline.execute(recipe)
    assert not (tmp_path / "run").exists()


# ---- weights


def counted(generation: GenerationSettings, passages: int) -> Counter[str]:
    types = load_types(generation)
    return sum((Counter(units_of(generation, types, f"p{n}")) for n in range(passages)), Counter())


def test_weights_decide_how_many_of_each_type_are_asked_for():
    generation = settings(
        query_types=["question", "claim", "title"], weights={"question": 2, "claim": 0.5, "title": 1.3}
    )
    found = counted(generation, 4000)
    assert found["question"] == 2 * 4000
    assert abs(found["claim"] - 2000) < 4 * (4000 * 0.25) ** 0.5  # four standard deviations
    assert abs(found["title"] - 5200) < 4 * (4000 * 0.21) ** 0.5
    types = load_types(generation)
    assert per_source(generation, types) == pytest.approx(3.8)
    assert same_for_all(generation, types) is None
    each = Counter(units_of(generation, types, f"p{n}")["title"] for n in range(4000))
    assert set(each) == {1, 2}, "always a whole number next to the weight"


def test_samples_multiply_weights():
    generation = settings(query_types=["question", "claim"], weights={"claim": 0.7}, samples=10)
    types = load_types(generation)
    assert units_of(generation, types, "any") == {"question": 10, "claim": 7}
    assert same_for_all(generation, types) == 17


def test_the_same_passages_are_chosen_whatever_stands_beside_them_and_others_with_another_seed():
    def chosen(**more) -> set[str]:
        generation = settings(weights={"claim": 0.5}, **more)
        types = load_types(generation)
        return {f"p{n}" for n in range(500) if units_of(generation, types, f"p{n}")["claim"]}

    assert chosen() == chosen(query_types=["claim"]) == chosen(query_types=["title", "claim"], temperature=0.1)
    assert chosen() != chosen(seed=1)


def test_a_higher_weight_asks_all_that_a_lower_one_asks_and_more():
    counts = []
    for weight in (0.3, 0.6, 1.4):
        generation = settings(query_types=["claim"], weights={"claim": weight})
        types = load_types(generation)
        counts.append([units_of(generation, types, f"p{n}")["claim"] for n in range(300)])
    assert all(a <= b <= c for a, b, c in zip(*counts, strict=True))


def test_a_passage_without_a_neighbour_is_asked_for_nothing_over_two():
    generation = settings(query_types=["question", "multi_hop"], samples=2)
    types = load_types(generation)
    assert units_of(generation, types, "p1") == {"question": 2, "multi_hop": 0}
    assert units_of(generation, types, "p1", has_neighbour=True) == {"question": 2, "multi_hop": 2}
    assert same_for_all(generation, types) is None
    assert per_source(generation, types) == 4


def test_a_type_that_extends_one_of_another_number_of_passages_has_none_of_its_examples(tmp_path: Path) -> None:
    files = {"both.yaml": "extends: question\nhops: 2\n", "hops.yaml": "extends: multi_hop\nweight: 0.5\n"}
    types = load_types(types_in(tmp_path, files, query_types=["both", "hops"]))
    assert (types["both"].hops, types["both"].pool, types["both"].examples) == (2, (), 0)
    assert types["hops"].hops == 2
    assert {pair.hops for pair in types["hops"].pool} == {2}


def test_hops_are_no_part_of_the_identity_of_types_over_one_passage():
    """Workdirs that were made before there were types over two passages go on."""
    kind = load_types(settings(query_types=["question"]))["question"]
    assert kind.digest != replace(kind, hops=2).digest
    plain = {**asdict(replace(kind, pool=())), "pool": [{"passage": p.passage, "query": p.query} for p in kind.pool]}
    del plain["hops"]
    assert kind.digest == hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
