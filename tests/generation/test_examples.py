from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.errors import InputError
from generation.cleaning.asked import Asked
from generation.cleaning.clean import clean
from generation.examples import own_pools, shipped_passages, shipped_pool
from generation.query_types import load_types
from generation.settings import GenerationSettings, shipped_types


@pytest.mark.parametrize("query_type", shipped_types())
def test_every_shipped_type_has_two_dozen_examples_of_eight_domains_and_more(query_type):
    domains = {entry.domain for entry in shipped_passages() if query_type in entry.queries | entry.of_both}
    pool = shipped_pool(query_type)
    assert len(pool) >= 24
    assert len(domains) >= 8
    assert len({pair.query.casefold() for pair in pool}) == len(pool)
    assert len({pair.passage for pair in pool}) == len(pool)


def test_every_shipped_example_is_a_query_that_the_clean_up_keeps_as_it_is():
    types = load_types(GenerationSettings(engine="vllm", model="m", query_types=list(shipped_types())))
    for name, kind in types.items():
        for pair in kind.pool:
            assert clean(pair.query, Asked("\n".join(pair.passages), name)).text == pair.query, name
            assert kind.min_characters <= len(pair.query) <= (kind.max_characters or 200), pair.query


def test_shipped_examples_have_the_form_that_their_type_asks_for():
    def queries(name: str) -> list[str]:
        return [pair.query for pair in shipped_pool(name)]

    assert all(query.startswith(("how to ", "how do I ", "steps to ")) for query in queries("how_to"))
    assert all(len(query.split()) <= 3 for query in queries("ambiguous"))
    assert all(query.endswith("?") for name in ("question", "multi_aspect", "multi_hop") for query in queries(name))
    assert all({"without", "not", "cannot"} & set(query.split()) for query in queries("negation"))
    assert all(3 <= len(query.split()) <= 9 and "?" not in query for query in queries("keywords"))
    for entry in shipped_passages():
        assert entry.queries.keys() | entry.of_both.keys() <= set(shipped_types())
        assert (entry.neighbour is None) == (not entry.of_both)


OWN = [
    {"passage": "Infuse over 30 minutes.", "query": "infusion time", "type": "search"},
    {"passage": "Shake well.", "query": "Is it shaken?", "type": "question"},
    {"passage": "Keep dry.", "query": "Must it be kept dry?", "type": "question"},
]


@pytest.mark.parametrize("suffix", ["jsonl", "yaml", "yml"])
def test_examples_of_a_user_take_the_place_of_a_types_own(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"own.{suffix}"
    lines = "\n\n".join(json.dumps(entry) for entry in OWN) + "\n"
    file.write_text(lines if suffix == "jsonl" else json.dumps(OWN, indent=1))
    types = load_types(GenerationSettings(engine="vllm", model="m", examples_file=str(file)))
    assert [pair.query for pair in types["question"].pool] == ["Is it shaken?", "Must it be kept dry?"]
    assert types["question"].examples == 2, "no more than there are"
    assert types["claim"].pool == shipped_pool("claim"), "types without own examples keep theirs"


@pytest.mark.parametrize(
    ("name", "text", "line", "said"),
    [
        ("own.jsonl", '{"passage": "p", "query": "q", "type": "claim"}\n{"passage": "p", "query": "q"}\n', 2, "`type`"),
        ("own.jsonl", '\n{"passage": "p", "qurey": "q", "type": "claim"}\n', 2, "did you mean `query`?"),
        ("own.jsonl", '{"passage": "p", "query": "", "type": "claim"}\n', 1, "`query` is ''"),
        ("own.jsonl", '{"passage": "p", "query": "q", "type": "clam"}\n', 1, "did you mean 'claim'?"),
        ("own.jsonl", '\n\n{"passage": \n', 3, "not JSON"),
        ("own.jsonl", "[1]\n", 1, "found a list"),
        ("own.yaml", "- passage: p\n  query: q\n  type: clam\n", 3, "did you mean 'claim'?"),
        ("own.yaml", "- {passage: p, query: q, type: claim}\n- passage: p\n  type: claim\n", 2, "`query` is missing"),
        ("own.yaml", "- {passage: p, query: q, type: multi_hop}\n", 1, "asks for two passages (hops: 2); add"),
        ("own.jsonl", '{"passage": "p", "second_passage": "s", "query": "q", "type": "claim"}\n', 1, "asks for one"),
        ("own.yaml", "passage: p\n", 1, "expected a list"),
        ("own.yaml", "- [\n", 2, "not valid YAML"),
    ],
)
def test_a_mistake_in_an_examples_file_is_told_with_its_line(
    tmp_path: Path, name: str, text: str, line: int, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        own_pools(tmp_path / name, dict.fromkeys(shipped_types(), 1) | {"multi_hop": 2})
    place = f"{tmp_path / name}, line {line}"
    assert any(place in told and said in told for told in str(caught.value).splitlines()), str(caught.value)


def test_a_file_without_examples_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no example"):
        own_pools(tmp_path / "empty.jsonl", dict.fromkeys(shipped_types(), 1))
    with pytest.raises(InputError, match="there is no file"):
        own_pools(tmp_path / "missing.jsonl", dict.fromkeys(shipped_types(), 1))
    (tmp_path / "latin.jsonl").write_bytes(b"{\xe9}")
    with pytest.raises(InputError, match=r"line 1.*not UTF-8"):
        own_pools(tmp_path / "latin.jsonl", dict.fromkeys(shipped_types(), 1))
