from __future__ import annotations

import json

import pytest

from generation.collect import collect
from generation.engines.base import Answer, Request
from generation.queries import identity
from generation.query_types import load_types
from generation.settings import GenerationSettings

TYPES = load_types(GenerationSettings(min_query_characters=3))


def identity_of(**settings):
    generation = GenerationSettings(**({"engine": "vllm", "model": "m"} | settings))
    return identity(generation, load_types(generation))


def requests(*units: str) -> list[Request]:
    return [
        Request(unit, unit.split(":")[0], "", "text", unit.split(":")[1], int(unit.split(":")[2])) for unit in units
    ]


def test_every_answer_is_a_row_or_a_counted_drop():
    asked = requests("p1:claim:0", "p1:claim:1", "p1:title:0", "p1:title:1", "p2:claim:0", "p2:claim:1", "p2:title:0")
    texts = ["Pears keep", "pears KEEP", None, "ab", "Pears keep", None, None]
    reasons = [None, None, "refusal", None, None, "refusal", None]
    answers = [Answer(r.unit, text, why, 3) for r, text, why in zip(asked, texts, reasons, strict=True)]

    output = collect(asked, answers, TYPES)

    # the same text may be asked of two sources, but not twice of one
    assert output.rows["query_id"].to_pylist() == ["p1:claim:0", "p2:claim:0"]
    assert output.rows["source_id"].to_pylist() == ["p1", "p2"]
    assert output.drops == {"duplicate": 1, "refusal": 2, "too_short": 1, "no_answer": 1}
    assert output.rows.num_rows + sum(output.drops.values()) == len(asked)
    assert output.tokens == 21


def test_an_engine_that_mixes_up_its_answers_is_found_out():
    asked = requests("p1:claim:0", "p2:claim:0")
    answers = [Answer("p2:claim:0", "a query", None, 0), Answer("p1:claim:0", "a query", None, 0)]
    with pytest.raises(ValueError, match="p2:claim:0 where p1:claim:0"):
        collect(asked, answers, TYPES)


def test_ids_with_colons_stay_whole():
    asked = [Request("doi:10:claim:0", "doi:10", "", "text", "claim", 0)]
    rows = collect(asked, [Answer("doi:10:claim:0", "a query", None, 0)], TYPES).rows.to_pylist()
    assert (rows[0]["query_id"], rows[0]["source_id"]) == ("doi:10:claim:0", "doi:10")


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        ({"concurrency": 3}, False),
        ({"rows_per_shard": 3}, False),
        ({"tensor_parallel": 2}, False),
        ({"engine_args": {"gpu_memory_utilization": 0.5}}, False),
        ({"engine_args": {"dtype": "float32"}}, True),
        ({"temperature": 0.1}, True),
        ({"model": "other"}, True),
        ({"examples": 1}, True),
        ({"about": "a hospital's wiki"}, True),
        ({"language": "de"}, True),
        ({"weights": {"claim": 0.5}}, True),
        ({"prompt": "chat"}, True),
        ({"system_prompt": "be brief"}, True),
        ({"example_sets": None}, True),
        ({"top_p": 0.9}, True),
        ({"seed": 1}, True),
    ],
)
def test_a_run_is_resumed_elsewhere_but_not_with_other_queries(change, matters):
    assert (identity_of() != identity_of(**change)) == matters


def test_what_types_and_examples_say_determines_the_queries_and_where_they_lie_does_not(tmp_path):
    def written(folder: str, instruction: str, query: str) -> dict:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "claim.yaml").write_text(f"instruction: {instruction}\n")
        examples = tmp_path / folder / "examples.jsonl"
        examples.write_text(json.dumps({"passage": "p", "query": query, "type": "claim"}))
        return identity_of(types_folder=str(tmp_path / folder), examples_file=str(examples))

    first = written("first", "write a claim", "q")
    assert first == written("moved", "write a claim", "q")
    other, asked = written("other", "write two claims", "q"), written("asked", "write a claim", "r")
    for changed in (other, asked):
        assert {name for name in first if first[name] != changed[name]} == {"types"}
        assert {name for name in first["types"] if first["types"][name] != changed["types"][name]} == {"claim"}
    assert identity_of()["types"].keys() == set(GenerationSettings().query_types), "only types that are used"


def test_wording_matters_to_engines_that_read_it_alone(tmp_path):
    (tmp_path / "claim.yaml").write_text("instruction: other words\n")
    own = {"types_folder": str(tmp_path)}
    assert identity_of(**own) != identity_of()
    extractive = {"engine": "extractive", "model": None}
    assert identity_of(**extractive) == identity_of(**extractive, **own)
    (tmp_path / "claim.yaml").write_text("instruction: other words\nweight: 2\n")
    assert identity_of(**extractive) != identity_of(**extractive, **own)


def test_too_long_queries_are_counted():
    types = load_types(GenerationSettings(engine="vllm", model="m", query_types=["ambiguous"]))
    asked = requests("p1:ambiguous:0", "p2:ambiguous:0")
    answers = [Answer(each.unit, text, None, 0) for each, text in zip(asked, ("x" * 40, "x" * 41), strict=True)]
    output = collect(asked, answers, types)
    assert (output.rows.num_rows, output.drops) == (1, {"too_long": 1})
