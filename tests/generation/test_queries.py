from __future__ import annotations

import pytest

from generation.engines.base import Answer, Request
from generation.queries import collect, identity
from generation.settings import GenerationSettings


def requests(*units: str) -> list[Request]:
    return [
        Request(unit, unit.split(":")[0], "", "text", unit.split(":")[1], int(unit.split(":")[2])) for unit in units
    ]


def test_every_answer_is_a_row_or_a_counted_drop():
    asked = requests("p1:claim:0", "p1:claim:1", "p1:title:0", "p1:title:1", "p2:claim:0", "p2:claim:1", "p2:title:0")
    texts = ["Pears keep", "pears KEEP", None, "ab", "Pears keep", None, None]
    reasons = [None, None, "refusal", None, None, "refusal", None]
    answers = [Answer(r.unit, text, why, 3) for r, text, why in zip(asked, texts, reasons, strict=True)]

    output = collect(asked, answers, min_characters=3)

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
        collect(asked, answers, min_characters=3)


def test_ids_with_colons_stay_whole():
    asked = [Request("doi:10:claim:0", "doi:10", "", "text", "claim", 0)]
    rows = collect(asked, [Answer("doi:10:claim:0", "a query", None, 0)], 3).rows.to_pylist()
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
        ({"seed": 1}, True),
    ],
)
def test_a_run_is_resumed_elsewhere_but_not_with_other_queries(change, matters):
    settings = {"engine": "vllm", "model": "m"}
    before, after = GenerationSettings(**settings), GenerationSettings(**(settings | change))
    assert (identity(before) != identity(after)) == matters


def test_the_prompts_are_part_of_what_determines_the_queries_of_a_language_model():
    assert identity(GenerationSettings(engine="vllm", model="m"))["prompts"]
    assert "prompts" not in identity(GenerationSettings(engine="extractive"))
