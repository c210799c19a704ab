"""Plans of what comes before the embeddings: the log, sources, engines, near-duplicates, the judge."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from cluster.schemas import QUERIES
from cluster.settings import PoolSettings
from generation.settings import JudgedQuerySettings
from generation.sources.budget import Decision
from launcher.plan.corpus import CorpusSample, sample_corpus
from launcher.plan.devices import GPUS, Device
from launcher.plan.hours import HoursRange, estimate_hours
from launcher.plan.memory import memory_needs
from launcher.plan.prompts import prompt_tokens
from launcher.plan.sources import with_measured_speed, with_sources
from launcher.plan.work import estimate_work
from launcher.recipe import Recipe
from tests.launcher.planned import CPU, changed, planned, steps_of, with_gpus
from tests.tables import write_table


def test_queries_of_the_log_are_counted_in_every_stage_that_works_on_them(recipe: Recipe, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"_id": str(number), "text": "herring"}) + "\n" for number in range(30)))
    corpus = recipe.corpus.model_copy(update={"query_log": str(log)})
    before, after = steps_of(recipe), steps_of(recipe.model_copy(update={"corpus": corpus}))
    assert after["query_log"].units == 30
    assert after["queries"] == before["queries"]
    for table in ("embeddings/student", "candidates", "scores/bm25", "lists"):
        assert after[table].units == before[table].units + 30, table


def test_judged_queries_are_counted_in_every_stage_that_works_on_them(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    lines = [f"q{number}\tp000\t1" for number in range(30)]
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines) + "\n")
    judged = JudgedQuerySettings(dataset=str(tmp_path))
    corpus = recipe.corpus.model_copy(update={"judged_queries": judged})
    before, after = steps_of(recipe), steps_of(recipe.model_copy(update={"corpus": corpus}))
    assert after["judged_queries"].units == 30
    for table in ("embeddings/student", "candidates", "scores/bm25", "lists"):
        assert after[table].units == before[table].units + 30, table


def test_near_duplicates_are_looked_for_where_a_language_model_writes(recipe: Recipe, tiny_llama: str) -> None:
    assert "distinct" not in steps_of(recipe)
    steps = steps_of(with_gpus(recipe, tiny_llama))
    assert list(steps)[1:3] == ["queries", "distinct"]
    assert (steps["distinct"].units, steps["distinct"].shards) == (600, 1)
    assert "distinct" not in steps_of(with_gpus(recipe, tiny_llama, near_duplicates=None))


def test_the_choice_of_sources_is_planned_where_a_run_makes_it(recipe: Recipe, tiny_llama: str, tmp_path: Path) -> None:
    clusters = changed(recipe, {"sources": {"by": "clusters"}, "max_sources": 30})
    steps = steps_of(clusters)
    assert list(steps)[:5] == ["passages", "chosen", "sources", "queries", "embeddings/student"]
    assert (steps["chosen"].units, steps["sources"].units, steps["queries"].units) == (100, 30, 180)
    assert "embedded before this" in steps["chosen"].notes[0]
    two = with_gpus(recipe, tiny_llama, query_types=["question", "multi_hop"])
    steps = steps_of(two)
    assert (steps["sources"].work, steps["queries"].units) == ("texts and neighbours", 200)
    one = with_gpus(recipe, tiny_llama, query_types=["question"])
    prompts = [prompt_tokens(each.generation, sample_corpus(each)) for each in (one, two)]
    assert prompts[1].whole > prompts[0].whole
    assert prompts[1].prefixes == 2 * prompts[0].prefixes
    (tmp_path / "ids.txt").write_text("a\nb\nc\n")
    by_ids = changed(recipe, {"sources": {"by": "ids", "file": str(tmp_path / "ids.txt")}})
    assert planned(by_ids)["queries"].units == 18


def test_a_budget_decides_the_number_of_sources_and_the_plan_says_why(recipe: Recipe, tiny_llama: str) -> None:
    assert with_sources(recipe, sample_corpus(recipe), CPU, CPU).sources is None
    step = planned(changed(recipe, budget={"queries": 130}))["queries"]
    assert (step.units, step.notes) == (
        126, ("21 sources: generation.budget.queries is 130, at 6 queries a source",),
    )  # fmt: skip
    step = planned(changed(recipe, {"sources": {"share": 0.07}}))["queries"]
    assert (step.units, step.notes) == (42, ("7 sources: corpus.sources.share is 0.07",))

    generous = changed(recipe, engine="vllm", model=tiny_llama, budget={"worker_hours": 1e9})
    steps = planned(generous)
    assert list(steps)[1:6] == ["chosen", "sources", "pilot", "queries", "distinct"]
    assert "a trial of the engine decides" in steps["queries"].notes[0]
    assert (steps["queries"].units, steps["pilot"].units) == (600, 600), "the trial would take more than there are"
    sample = with_sources(generous, sample_corpus(generous), CPU, CPU)
    of_all = estimate_work(generous, sample)
    number = [step.table for step in of_all].index("queries")
    hours = estimate_hours(generous, sample, of_all, CPU, CPU)[number]
    assert hours
    worker_hours = hours.low / steps["queries"].devices  # hours of all cores, of which a worker has a part
    half = changed(generous, budget={"worker_hours": worker_hours / 2})
    assert planned(half)["queries"].units == pytest.approx(300, abs=6), "half of the hours write half of the queries"

    halved = with_sources(half, sample_corpus(half), CPU, CPU)
    step = planned(half)["queries"]
    measured = with_measured_speed(half, halved, step, hours.low / 4)  # twice as fast as was estimated
    assert measured.sources and measured.sources.number == pytest.approx(100, abs=1)


def test_what_a_run_has_measured_is_what_its_plan_counts_with(recipe: Recipe, tiny_llama: str) -> None:
    measured = changed(recipe, engine="vllm", model=tiny_llama, budget={"worker_hours": 2})
    table = write_table(measured.workdir, QUERIES, "pilot", [])
    decision = Decision(2, "worker_hours", 5, 0.04, 47, "measured on 5")
    table.storage.put(f"pilot/budget.{table.plan.id}.json", json.dumps(asdict(decision)).encode())
    assert "47 sources: measured on 5" in planned(measured)["queries"].notes
    other = planned(changed(measured, budget={"worker_hours": 3}))["queries"].notes
    assert "trial" in other[0], "that was decided for another budget"


def test_generation_by_a_server_takes_no_time_here_and_its_models_name_is_no_folder(recipe: Recipe) -> None:
    generation = recipe.generation.model_copy(update={"engine": "openai", "model": "accounts/some/models/llama-8b"})
    planned = recipe.model_copy(update={"generation": generation})
    sample = sample_corpus(planned)
    steps = estimate_work(planned, sample)
    estimates = estimate_hours(planned, sample, steps, GPUS["h100"], CPU)
    hours = dict(zip((step.table for step in steps), estimates, strict=True))
    assert hours["queries"] == HoursRange(0.0, 0.0)
    assert steps_of(planned)["queries"].tokens > 0
    assert hours["training"].low > 0


def test_a_mixture_is_planned_section_by_section(recipe: Recipe, tiny_llama: str) -> None:
    """Shares of the sources are work for each engine; a change that makes a model fit names its section."""
    one = with_gpus(recipe, tiny_llama, share=0.75).generation
    sections = (recipe.generation.model_copy(update={"share": 0.25}), one)
    mixed, sample = recipe.model_copy(update={"generation": sections}), sample_corpus(recipe)
    whole = {step.table: step for step in estimate_work(recipe, sample)}
    steps = {step.table: step for step in estimate_work(mixed, sample)}
    assert steps["queries"].units == round(0.25 * whole["queries"].units)
    assert steps["more_queries/1"].units == round(0.75 * whole["queries"].units)
    assert steps["more_queries/1"].on_gpu
    assert not steps["queries"].on_gpu
    assert steps["candidates"].units == whole["candidates"].units
    on_cpus = one.model_copy(update={"pool": PoolSettings(workers=1)})
    mixed_on_cpus = recipe.model_copy(update={"generation": (sections[0], on_cpus)})
    devices = {step.table: step.devices for step in estimate_work(mixed_on_cpus, sample)}
    assert devices["more_queries/1"] == 1.0, "a vLLM worker holds all cores"
    small = Device("a small GPU", 1e14, 1e14, 1e12, is_gpu=True)
    need, *_ = memory_needs(mixed, sample, small)
    assert need.stage == "queries 1"


def test_a_mixture_that_does_not_fit_names_the_field_of_its_section(recipe: Recipe, eight_billion: str) -> None:
    one = with_gpus(recipe, eight_billion).generation
    mixed = recipe.model_copy(update={"generation": (recipe.generation, one)})
    need, *_ = memory_needs(mixed, sample_corpus(recipe), GPUS["l4"])
    assert need.change == "generation.1.max_model_len=1024"


def test_a_judge_by_likelihood_reads_the_query_twice_and_the_passage_once(tiny_llama: str) -> None:
    from transformers import AutoTokenizer

    from generation.judging.settings import JudgeSettings
    from launcher.plan.judge import _QUERY, judge_tokens

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    passage = ("Honey", "Bees make honey in summer.")
    for engine in ("vllm", "transformers"):
        judge = JudgeSettings(model=tiny_llama, engine=engine, by="likelihood")
        found = judge_tokens(judge, CorpusSample(1, 1, 1, True, (passage,)), 6)
        texts = (f"Query: {_QUERY}", f"Passage: Honey\nBees make honey in summer.\n\nQuery: {_QUERY}")
        lengths = [len(tokenizer.encode(text)) for text in texts]
        assert found.criteria == 2
        assert (found.computed, found.whole) == pytest.approx((sum(lengths), sum(lengths) / 2))


def test_a_judge_reads_each_passage_once_for_all_its_queries(recipe: Recipe, tiny_llama: str) -> None:
    """The tokens of prompts by the model's own tokenizer; what they begin with alike counts once."""
    from transformers import AutoTokenizer

    from generation.judging.prompts import Pair, judge_text
    from generation.judging.rubric import load_rubric
    from generation.judging.settings import JudgeSettings
    from launcher.plan.judge import _QUERY, judge_tokens

    judge = JudgeSettings(model=tiny_llama)
    title, text = "Ardell", "A slate quarry stands above the harbour and its bridge. " * 20
    tokens = judge_tokens(judge, CorpusSample(1, 1, 1, True, ((title, text),)), 1e9)
    tokenizer, rubric = AutoTokenizer.from_pretrained(tiny_llama), load_rubric(judge)
    prompts = [
        tokenizer.encode(judge_text(rubric, Pair("", _QUERY, ((title, text),)), name, 2048, chat=True))
        for name in rubric.questions
    ]
    assert tokens.whole == pytest.approx(np.mean([len(prompt) for prompt in prompts]))
    seen: set[tuple[int, ...]] = set()  # all beginnings that were read, as a trie
    passage = tokenizer.encode(judge_text(rubric, Pair("", "", ((title, text),)), "natural", 2048, chat=True))
    common = next(n for n, (a, b) in enumerate(zip(passage, prompts[0], strict=False)) if a != b)
    seen |= {tuple(prompts[0][: n + 1]) for n in range(common)}
    fresh = {tuple(prompt[: n + 1]) for prompt in prompts for n in range(len(prompt))} - seen
    assert tokens.computed == pytest.approx(len(fresh), abs=6)
    alone = judge_tokens(judge, CorpusSample(1, 1, 1, True, ((title, text),)), 1)
    assert alone.computed == pytest.approx(len(fresh) + common, abs=6)
    slow = judge.model_copy(update={"engine": "transformers"})
    assert judge_tokens(slow, CorpusSample(1, 1, 1, True, ((title, text),)), 9).computed == sum(map(len, prompts))


def test_a_judge_is_a_step_of_the_plan_and_needs_memory(recipe: Recipe, eight_billion: str) -> None:
    from generation.judging.settings import JudgeSettings

    judge = JudgeSettings(model=eight_billion, pool=PoolSettings(gpus=1))
    judged = recipe.model_copy(update={"generation": recipe.generation.model_copy(update={"judge": judge})})
    sample = sample_corpus(judged)
    steps = {step.table: step for step in estimate_work(judged, sample)}
    assert steps["grades"].units == steps["approved"].units == steps["queries"].units
    assert steps["grades"].on_gpu
    assert steps["grades"].tokens > 3 * 60 * steps["grades"].units, "three questions of some sixty tokens"
    need = next(need for need in memory_needs(judged, sample, GPUS["l4"]) if need.stage == "grades")
    assert need.parts["weights"] == pytest.approx(2 * 8.03e9, rel=1e-3)
    assert not need.fits
    assert need.change.startswith("generation.judge.")
