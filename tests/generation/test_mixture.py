"""A mixture of engines: who writes for which sources, ids and tables, and near-duplicates over all of them."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain

import pyarrow as pa
import pytest

from cluster.errors import InputError
from cluster.schemas import PASSAGES, QUERIES, section_of
from cluster.tables.plan import Shard, Slice
from cluster.workers.worker import Task
from generation import distinct, queries
from generation.mixture import WHOLE, Section, in_section, one_threshold, refuse_none, sections_of
from generation.query_types import load_types
from generation.settings import GenerationSettings
from tests.generation.openai_server import completion, passage_of, settings
from tests.tables import write_table

IDS = [f"doc-{number}" for number in range(20_000)]


def with_shares(*shares: float) -> list[Section]:
    return list(sections_of([GenerationSettings(share=share) for share in shares]))


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.7, 0.2, 0.1), (1 / 3, 1 / 3, 1 / 3)])
def test_shares_that_sum_to_one_divide_the_sources(shares):
    sections = with_shares(*shares)
    assert sum(section.length for section in sections) == pytest.approx(2**32, abs=8)
    writers = [[section.number for section in sections if section.writes_for(source)] for source in IDS]
    assert max(map(len, writers)) == 1
    assert sum(map(len, writers)) >= len(IDS) - 1  # a third has no finite decimals
    counts = Counter(chain(*writers))
    for number, share in enumerate(shares):
        spread = math.sqrt(share * (1 - share) / len(IDS))
        assert counts[number] / len(IDS) == pytest.approx(share, abs=4 * spread)


def test_a_section_without_a_share_writes_for_all_and_the_others_as_if_it_were_not_there():
    whole, some = with_shares(1.0, 0.25)
    assert all(whole.writes_for(source) for source in IDS[:100])
    assert [some.writes_for(source) for source in IDS] == [with_shares(0.25)[0].writes_for(source) for source in IDS]


def test_ids_of_two_sections_differ_and_say_which_one_it_was():
    first, second = with_shares(1.0, 1.0)
    units = [section.unit("a:b@c", "claim", sample) for section in (first, second) for sample in range(2)]
    assert units == ["a:b@c:claim:0", "a:b@c:claim:1", "a:b@c:claim:0@1", "a:b@c:claim:1@1"]
    assert [section_of(unit) for unit in units] == [0, 0, 1, 1]
    assert [unit.rsplit(":", 2)[:2] for unit in units] == [["a:b@c", "claim"]] * 4
    assert (first.path, second.path) == ("queries", "more_queries/1")
    assert (first.field, second.field) == ("generation.0", "generation.1")


def test_one_section_is_as_it_was_before_there_were_several():
    """The same table, ids and identity; and nothing of the new fields in the identity of runs that go on."""
    generation = GenerationSettings(engine="vllm", model="m")
    assert list(sections_of(generation)) == [WHOLE]
    assert WHOLE.path == "queries"
    assert WHOLE.unit("p", "claim", 0) == "p:claim:0"
    types = load_types(generation)
    before = queries.identity(generation, types)
    assert before == queries.identity(generation, types, WHOLE)
    new = {
        "lora",
        "lora_revision",
        "share",
        "sources",
        "timeout_s",
        "patience_s",
        "requests_per_minute",
        "tokens_per_minute",
    }
    assert not new & before.keys()
    for field, value in (("patience_s", 1), ("requests_per_minute", 1), ("timeout_s", 1)):
        assert queries.identity(generation.model_copy(update={field: value}), types) == before
    adapted = queries.identity(generation.model_copy(update={"lora": "x"}), types)
    half = queries.identity(generation, types, with_shares(0.5)[0])
    other = queries.identity(generation, types, with_shares(0.5, 0.5)[1])
    assert len({str(one) for one in (before, adapted, half, other)}) == 4


def test_near_duplicates_need_one_threshold_unless_a_section_keeps_all():
    model = {"engine": "vllm", "model": "m"}
    extractive, written = GenerationSettings(), GenerationSettings(**model)
    assert one_threshold(sections_of([extractive, written])) == 0.85
    assert one_threshold(sections_of(extractive)) is None
    with pytest.raises(ValueError, match=r"generation\.0: 0\.9, generation\.1: 0\.85"):
        one_threshold(sections_of([GenerationSettings(**model, near_duplicates=0.9), written]))


def test_messages_name_the_section_and_leave_paths_alone():
    second = with_shares(0.5, 0.5)[1]
    message = "generation.model: no folder '/data/generation.old/x'; set generation.base_url"
    assert in_section(message, second) == (
        "generation.1.model: no folder '/data/generation.old/x'; set generation.1.base_url"
    )
    assert in_section(message, WHOLE) == message


def test_where_nothing_is_left_every_section_is_named(tmp_path):
    tables = [write_table(str(tmp_path), QUERIES, path, []) for path in ("queries", "more_queries/1")]
    sections = sections_of([GenerationSettings(min_query_characters=99), GenerationSettings()])
    with pytest.raises(InputError, match="no query is left"):
        refuse_none(tables, [], sections)


def rows_of(section: Section, texts: list[str]) -> list[dict]:
    return [
        {"query_id": section.unit(f"p{number}", "claim", 0), "source_id": f"p{number}", "query_type": "claim",
         "text": text, "sample": 0}
        for number, text in enumerate(texts)
    ]  # fmt: skip


def test_what_an_earlier_section_has_written_is_a_near_duplicate_in_a_later_one(tmp_path):
    first, second = with_shares(1.0, 1.0)
    texts = {first: ["what is honey", "where do bees live"], second: ["What is honey?", "how is wax made", "bees"]}
    tables = {section: write_table(str(tmp_path), QUERIES, section.path, rows_of(section, own))
              for section, own in texts.items()}  # fmt: skip
    storage = tables[first].storage
    worker = distinct.DistinctWorker(storage, [section.path for section in texts], 0.85)
    kept = []
    for table in tables.values():
        [(file, rows)] = table.files()
        shard = Shard("00000", rows, 1, (Slice(file, 0, rows),), {})
        kept += worker.process(Task(shard, 0, rows, table.read())).rows["text"].to_pylist()
    assert kept == ["what is honey", "where do bees live", "how is wax made", "bees"]


def test_a_mixture_accounts_for_every_unit_and_compares_all_queries(serve, run):
    """A server writes for two of three sources, extraction for all of them; both write the titles."""
    server, made = serve(lambda payload, _: completion(f"where is {passage_of(payload)}?")), run()
    texts = [f"Hamlet {number} lies beside a river and has an old mill." for number in range(30)]
    rows = [{"passage_id": f"p{n}", "title": f"Place {n}", "text": text, "is_source": True}
            for n, text in enumerate(texts)]  # fmt: skip
    passages = write_table(made.storage.url, PASSAGES, "passages", rows)
    sections = sections_of([
        GenerationSettings(query_types=["title"], near_duplicates=0.85, rows_per_shard=20),
        settings(server.url, query_types=["question"], share=0.6, rows_per_shard=20),
    ])  # fmt: skip
    written = {section: queries.build(made, own, passages, section) for section, own in sections.items()}
    first, second = written.values()
    wanted = [f"p{n}" for n in range(30) if list(sections)[1].writes_for(f"p{n}")]
    assert 8 < len(wanted) < 27
    assert first.num_rows == 30
    assert second.complete
    assert second.plan.units == sum(commit.accounted for commit in second.commits()) == len(wanted)
    assert second.read()["source_id"].to_pylist() == wanted
    assert len(server.payloads) == len(wanted)

    kept = distinct.build(made, 0.85, list(written.values()))
    ids = pa.concat_tables([table.read(["query_id"]) for table in written.values()])["query_id"].to_pylist()
    assert len(set(ids)) == len(ids) == kept.plan.units
    assert kept.complete
    again = {section: queries.build(made, own, passages, section) for section, own in sections.items()}
    assert [table.fingerprint for table in again.values()] == [table.fingerprint for table in written.values()]
    moved = sections_of([*list(sections.values())[:1], settings(server.url, query_types=["question"], share=0.5)])
    with pytest.raises(InputError, match="sources"):
        queries.build(made, list(moved.values())[1], passages, list(moved)[1])
