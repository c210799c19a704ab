"""Queries over SOURCES: every unit is planned, asked and accounted for, and a query over two passages names both."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from cluster.errors import InputError
from cluster.schemas import PASSAGES, SOURCES
from cluster.tables.plan_shards import plan_shards
from cluster.tables.shard_reader import ShardReader
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.worker import Task
from generation import queries, query_worker
from generation.engines.base import Answer, Request
from generation.mixture import WHOLE
from generation.queries import identity
from generation.query_types import load_types
from generation.query_worker import QueryWorker
from generation.settings import CorpusSettings, GenerationSettings
from generation.sources.budget import affordable, decide, recorded_decision
from generation.sources.settings import BudgetSettings, NeighbourSettings, SourceSettings
from generation.sources.stage import most_sources, needs_vectors, sample_size
from tests.generation.sources.tables import write_passages
from tests.tables import write_table

WRITTEN = ["question", "claim", "multi_hop"]


def generation(**more) -> GenerationSettings:
    named = {"engine": "vllm", "model": "m", "query_types": WRITTEN, "rows_per_shard": 4, "prompt": "completion",
             "layout": "type_first"}  # fmt: skip
    return GenerationSettings(**(named | more))


def write_sources(workdir: str, with_neighbour: set[int], count: int = 10) -> Table:
    rows = [
        {"passage_id": f"p{n}", "title": "", "text": f"text of passage {n}"}
        | ({"neighbour_id": f"p{n + 100}", "neighbour_title": "N", "neighbour_text": f"near {n}"}
           if n in with_neighbour else {})
        for n in range(count)
    ]  # fmt: skip
    return write_table(workdir, SOURCES, SOURCES.path, rows)


class Speaker:
    """Stands for the model: says of each request which passages it has seen. One in seven gets no answer."""

    styles = ("completion",)
    style = "completion"

    def __init__(self) -> None:
        self.asked: list[Request] = []

    async def answer(self, requests: list[Request]) -> list[Answer]:
        numbers = itertools.count(len(self.asked))
        self.asked += requests
        return [
            Answer(one.unit, f"{one.query_type} {one.text} {one.second and one.second.text}", None, 1)
            if number % 7
            else Answer(one.unit, None, "refusal", 1)
            for one, number in zip(requests, numbers, strict=False)
        ]


@pytest.mark.parametrize("more", [{}, {"samples": 2}, {"weights": {"multi_hop": 0.5, "claim": 1.5}}])
@pytest.mark.parametrize("most", [None, 7])
def test_every_planned_unit_is_a_row_or_a_drop_and_a_query_over_two_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict, most: int | None
) -> None:
    workdir, near = str(tmp_path), {1, 2, 5, 8}
    sources, settings = write_sources(workdir, near), generation(**more)
    stage = queries.stage(sources.storage, settings, write_passages(workdir, 3), WHOLE, sources, most)
    speaker = Speaker()
    monkeypatch.setattr(query_worker, "open_engine", lambda *_: speaker)
    worker, reader = QueryWorker(**stage.arguments), ShardReader(sources.storage)
    rows = []
    for shard in stage.shards():
        output = asyncio.run(worker.process(Task(shard, 0, shard.rows, reader.rows(shard, 0, shard.rows))))
        assert output.rows.num_rows + sum(output.drops.values()) == shard.units, shard.name
        rows += output.rows.to_pylist()
    assert {request.source_id for request in speaker.asked} == {f"p{n}" for n in range(most or 10)}
    assert {r.source_id for r in speaker.asked if r.query_type == "multi_hop"} <= {f"p{n}" for n in near}
    for row in rows:
        number = int(row["source_id"].removeprefix("p"))
        two = row["query_type"] == "multi_hop"
        assert row["second_source_id"] == (f"p{number + 100}" if two else None)
        assert row["text"] == f"{row['query_type']} text of passage {number} {f'near {number}' if two else None}"
    assert any(row["second_source_id"] for row in rows)


def test_a_trial_of_prompts_asks_no_passage_for_a_neighbour_that_it_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = write_sources(str(tmp_path), {0}, count=2)
    monkeypatch.setattr(query_worker, "open_engine", lambda *_: Speaker())
    worker = QueryWorker(generation(), load_types(generation()), sources.storage, "passages")
    asked = [worker._requests(row, always=True) for row in sources.read().to_pylist()]
    assert [len(each) for each in asked] == [3, 2]


def test_a_plan_may_end_after_some_rows(tmp_path: Path) -> None:
    table = write_table(
        str(tmp_path), PASSAGES, "passages",
        [{"passage_id": str(n), "title": "", "text": "t", "is_source": n % 3 == 0} for n in range(30)],
    )  # fmt: skip
    reader = ShardReader(table.storage)
    for most in (0, 1, 6, 10, 99):
        shards = plan_shards(table, 4, where="is_source", most=most)
        ids = [one for shard in shards for one in reader.rows(shard, 0, shard.rows)["passage_id"].to_pylist()]
        assert ids == [str(n) for n in range(0, 30, 3)][:most]
        assert sum(shard.rows for shard in shards) == len(ids)


# ---- which recipes need the table, and how many sources there are


def test_simple_recipes_keep_their_sample_and_need_neither_table_nor_vectors() -> None:
    simple = CorpusSettings(path="c", max_sources=70)
    one_hop = generation(query_types=["question", "claim"])
    assert sample_size(simple, one_hop) == 70
    assert not needs_vectors(simple, one_hop)
    assert sample_size(simple, one_hop.model_copy(update={"budget": BudgetSettings(queries=61)})) == 30
    assert sample_size(simple, one_hop.model_copy(update={"budget": BudgetSettings(queries=1)})) == 1
    assert sample_size(simple, one_hop.model_copy(update={"budget": BudgetSettings(queries=10**6)})) == 70
    assert sample_size(simple, one_hop.model_copy(update={"budget": BudgetSettings(worker_hours=1)})) is None
    assert sample_size(simple, generation()) is None
    assert needs_vectors(simple, generation())
    for by, vectors in (("clusters", True), ("query_log", True), ("ids", False)):
        corpus = simple.model_copy(update={"sources": SourceSettings(by=by, file="x" if by == "ids" else None)})
        assert sample_size(corpus, one_hop) is None
        assert needs_vectors(corpus, one_hop) == vectors
        budget = one_hop.model_copy(update={"budget": BudgetSettings(queries=61)})
        assert most_sources(corpus, budget) == 30


def test_which_passages_and_what_they_cost_are_no_part_of_what_is_written() -> None:
    def identity_of(**more) -> dict:
        return identity(generation(**more), load_types(generation(**more)))

    assert identity_of() == identity_of(budget={"queries": 7}) == identity_of(neighbours={"min_similarity": 0.1})


@pytest.mark.parametrize(
    ("section", "settings", "said"),
    [
        (SourceSettings, {"by": "ids"}, "needs `file`"),
        (SourceSettings, {"file": "x"}, "`file` has no meaning with by 'random', only with ids"),
        (SourceSettings, {"by": "ids", "file": "x", "share": 0.1}, "`share` has no meaning with by 'ids'"),
        (SourceSettings, {"by": "clusters", "floor": 0.5}, "`floor` has no meaning"),
        (SourceSettings, {"share": 0}, "greater than 0"),
        (BudgetSettings, {}, "expected one of"),
        (BudgetSettings, {"queries": 5, "gpu_hours": 1}, "expected one of"),
        (NeighbourSettings, {"min_similarity": 0.95}, "is not less than"),
        (CorpusSettings, {"path": "c", "sources": {"by": "query_log"}}, "needs corpus.query_log"),
        (GenerationSettings, {"budget": {"gpu_hours": 1}}, "needs workers with GPUs"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(section: type, settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        section(**settings)


def test_a_budget_in_hours_pays_for_what_is_left_after_the_trial() -> None:
    budget = BudgetSettings(gpu_hours=4)
    decision = affordable(budget, trial_hours=0.1, tried=100, available=100_000)
    assert decision.sources == 3900  # 3.9 hours at a thousandth of an hour each
    assert "measured on 100" in decision.why
    capped = affordable(budget, trial_hours=0.1, tried=100, available=50)
    assert capped.sources == 50
    assert "would pay for 3,900; there are 50" in capped.why
    with pytest.raises(InputError, match=r"budget.gpu_hours is 0.05, and a trial with 100 sources took 0.1"):
        affordable(BudgetSettings(gpu_hours=0.05), 0.1, 100, 1000)


@pytest.mark.usefixtures("local_ray")
def test_the_engine_is_timed_once_and_a_resumed_run_keeps_what_was_decided(run, tmp_path: Path) -> None:
    opened = run("run")
    workdir = opened.storage.url.removeprefix("file://")
    texts = [f"The mill of valley {n} grinds rye, and its wheel was rebuilt in {1700 + n}." for n in range(40)]
    passages = write_passages(workdir, 40, texts=texts)
    rows = [{"passage_id": f"p{n}", "title": f"Title {n}", "text": texts[n]} for n in range(40)]
    sources = write_table(workdir, SOURCES, SOURCES.path, rows)
    settings = GenerationSettings(budget={"worker_hours": 1e9}, pool={"workers": 1})
    first = decide(opened, settings, passages, sources)
    assert first.sources == 40
    assert first.trial_sources == 40
    assert 0 < first.hours_per_source < 0.01
    assert recorded_decision(opened.storage) == first
    trial = Table.open(opened.storage, "pilot")
    assert trial.num_rows > 0
    assert decide(run("run"), settings, passages, sources) == first
    assert Table.open(opened.storage, "pilot").fingerprint == trial.fingerprint, "it was not tried again"
    # another budget is another number, by the speed that was measured before
    hours = 50.5 * first.hours_per_source
    other = decide(
        run("run"), settings.model_copy(update={"budget": BudgetSettings(worker_hours=hours)}), passages, sources
    )
    assert other.sources == 10
    table = queries.build(opened, settings, passages, sources=sources, most=other.sources)
    assert set(table.read(["source_id"])["source_id"].to_pylist()) <= {f"p{n}" for n in range(10)}
    assert table.plan.units == 60
    with pytest.raises(InputError, match="sources_used: was 10, is 11"):
        queries.build(run("run"), settings, passages, sources=sources, most=11)
    assert Storage(workdir).exists("queries/plan.json")
