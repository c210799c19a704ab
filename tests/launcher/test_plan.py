"""The figures of a plan against those of a calculation by hand, of another library, or of a real run."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pytest
from rich.console import Console

from cluster.errors import InputError
from cluster.machines.memory import machine_memory
from cluster.schemas import QUERIES
from cluster.settings import PoolSettings
from distill.settings import EncoderSettings
from generation.sources.budget import Decision
from launcher.plan.corpus import CorpusSample, sample_corpus
from launcher.plan.devices import GPUS, Device
from launcher.plan.hours import HoursRange, estimate_hours
from launcher.plan.memory import memory_needs
from launcher.plan.models import model_size
from launcher.plan.prompts import prompt_tokens
from launcher.plan.reality import compare_with_plan
from launcher.plan.show import Plan, make_plan, print_plan, refuse_what_does_not_fit, total_hours
from launcher.plan.sources import with_measured_speed, with_sources
from launcher.plan.work import PlanStep, estimate_work
from launcher.recipe import Recipe, load_recipe
from tests.pipeline import listwise, recipe_text
from tests.tables import write_table

CPU = Device("a CPU", 1e11, 1e11, 1e10, is_gpu=False)


def save_llama(folder: Path, **config: int) -> str:
    """Saves the configuration of a model without its weights."""
    from transformers import LlamaConfig

    LlamaConfig(architectures=["LlamaForCausalLM"], **config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def eight_billion(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of Llama-3.1-8B's configuration (arXiv 2407.21783, table 3): 8.03 G parameters."""
    return save_llama(
        tmp_path_factory.mktemp("llama"), hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=False,
    )  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path, hundred: Path, tiny_encoder: str) -> Recipe:
    (tmp_path / "recipe.yaml").write_text(recipe_text(hundred, tiny_encoder, tmp_path / "run"))
    return load_recipe(str(tmp_path / "recipe.yaml"))


def with_gpus(recipe: Recipe, llama: str, **generation: object) -> Recipe:
    pool = {"gpus": 1.0}
    section = recipe.generation.model_copy(
        update={"engine": "vllm", "model": llama, "pool": recipe.generation.pool.model_copy(update=pool), **generation}
    )
    return recipe.model_copy(update={"generation": section})


def test_size_of_a_language_model_is_the_published_one(eight_billion: str) -> None:
    size = model_size(eight_billion)
    assert size is not None
    assert size.parameters == pytest.approx(8.03e9, rel=1e-3)
    assert size.matrices == pytest.approx(8.03e9 - 128256 * 4096, rel=1e-3)
    assert size.cache_bytes(1) == 131072  # 128 KiB a token: 2 × 32 layers × 8 heads × 128 × 2 bytes


def test_size_of_an_encoder_is_that_of_its_weights(tiny_encoder: str) -> None:
    from safetensors.numpy import load_file

    size = model_size(tiny_encoder)
    weights = load_file(next(Path(tiny_encoder).rglob("model.safetensors")))
    assert size is not None
    assert size.parameters == sum(tensor.size for tensor in weights.values())
    assert size.parameters - size.matrices == sum(v.size for k, v in weights.items() if "embeddings.weight" in k)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("meta-llama/Llama-3.1-8B-Instruct", 8e9), ("Qwen/Qwen3-0.6B", 0.6e9), ("BAAI/bge-base-en-v1.5", None)],
)
def test_size_of_a_model_without_files_is_what_its_name_says(name: str, parameters: float | None) -> None:
    size = model_size(name)
    assert (size.parameters if size else None) == parameters


def test_prefix_reuse_leaves_the_passage_and_less_than_a_block_before_it(tiny_llama: str, recipe: Recipe) -> None:
    from transformers import AutoTokenizer

    from generation.engines.base import Request
    from generation.prompting import Prompter

    generation = with_gpus(recipe, tiny_llama).generation.model_copy(update={"query_types": ["question"]})
    text = "A slate quarry stands above the harbour and its bridge."
    tokens = prompt_tokens(generation, CorpusSample(1, 1, 1, True, (("Ardell", text),)))
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    request = Request("0:question:0", "0", "Ardell", text, "question", 0)
    prompt = Prompter(generation).prompt(request, "completion").text
    assert tokens.with_tokenizer
    assert tokens.whole == len(tokenizer.encode(prompt))
    passage = prompt[prompt.rindex("Ardell") :]
    new = len(tokenizer.encode(passage, add_special_tokens=False))
    assert new - 1 <= tokens.computed < new + 16 + 1
    assert tokens.prefixes == generation.example_sets == 4


def test_memory_of_training_is_sixteen_bytes_a_parameter_shared_by_zero(recipe: Recipe) -> None:
    """Rajbhandari et al., arXiv 1910.02054, section 3.1, with float32 weights, plus the bucket of reduced gradients."""
    sample = sample_corpus(recipe)
    parameters = model_size(recipe.student.model).parameters
    for stage, expected in ((0, 20), (1, 20 - 8 / 2), (2, 20 - 12 / 2), (3, 20 - 16 / 2)):
        training = recipe.training.model_copy(update={"zero_stage": stage, "ranks": 2})
        need = memory_needs(recipe.model_copy(update={"training": training}), sample, GPUS["h100"])[-1]
        exact = sum(need.parts[name] for name in ("weights", "gradients", "moments"))
        assert exact == pytest.approx(expected * parameters)


def test_a_worker_that_does_not_fit_gets_the_smallest_change_that_fits(recipe: Recipe, eight_billion: str) -> None:
    sample = sample_corpus(recipe)
    shorter, wider = "generation.max_model_len=1024", "generation.tensor_parallel=2"
    for gpu, characters, change in (("h100", 2048, ""), ("l4", 2048, shorter), ("l4", 8192, wider)):
        changed = with_gpus(recipe, eight_billion, prompt_characters=characters)
        need = memory_needs(changed, sample, GPUS[gpu])[0]
        assert (need.fits, need.change) == (not change, change), (
            "a shorter context is offered only if prompts still fit into it"
        )
    large = recipe.student.model_copy(update={"model": eight_billion})
    training = recipe.training.model_copy(update={"gpus_per_rank": 1.0, "ranks": 8, "micro_batch_tokens": 4096})
    need = memory_needs(recipe.model_copy(update={"student": large, "training": training}), sample, GPUS["h100"])[-1]
    assert need.change == "training.zero_stage=2"
    changed = recipe.model_copy(update={"student": large, "training": training.model_copy(update={"zero_stage": 2})})
    assert memory_needs(changed, sample, GPUS["h100"])[-1].fits


def test_a_plan_that_does_not_fit_exits_2_and_says_what_to_set(
    tmp_path: Path, hundred: Path, tiny_encoder: str, eight_billion: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe_text(hundred, tiny_encoder, tmp_path / "run"))
    changes = ["generation.engine=vllm", f"generation.model={eight_billion}", "generation.pool.gpus=1"]
    words = [word for change in changes for word in ("--set", change)]
    done = listwise("plan", str(tmp_path / "recipe.yaml"), "--gpu", "l4", "--gpus", "4", "--price", "2.5", *words)
    assert done.returncode == 2, done.stderr
    assert "queries: a worker with" in done.stderr
    assert "has 21.6 GB. The smallest change that fits: --set generation.max_model_len=1024" in done.stderr
    assert "new after prefix reuse" in done.stdout
    assert "At 2.5 an hour:" in done.stdout
    assert not (tmp_path / "run").exists()


def test_reading_the_weights_limits_the_speed_of_generation(recipe: Recipe, eight_billion: str) -> None:
    """600 queries of 14 to 50 tokens, 256 at once: each step of the batch reads 16 GB at 40 to 80 % of 3.35 TB/s.

    The prompts are read as well, with two operations for each weight, at 15 to 50 % of 989 TFLOP/s.
    """
    planned, gpu = with_gpus(recipe, eight_billion), GPUS["h100"]
    sample = sample_corpus(planned)
    steps = estimate_work(planned, sample)
    hours = estimate_hours(planned, sample, steps, gpu, gpu)[1]
    weights = 2 * 8.03e9
    assert hours is not None
    for estimated, written, bandwidth, utilisation in ((hours.low, 14, 0.8, 0.5), (hours.high, 50, 0.4, 0.15)):
        reading = (steps[1].tokens - 600 * (50 - written)) * 2 * 7.5e9 / (989e12 * utilisation)
        writing = 600 * written / 256 * weights / (3.35e12 * bandwidth)
        assert reading + writing < estimated * 3600 < 1.3 * (reading + writing)


def steps_of(recipe: Recipe) -> dict[str, PlanStep]:
    return {step.table: step for step in estimate_work(recipe, sample_corpus(recipe))}


def test_a_teacher_with_an_encoder_of_its_own_embeds_all_texts_again(recipe: Recipe, tiny_encoder: str) -> None:
    before = steps_of(recipe)
    assert "scores/encoder-vectors" not in before, "the teacher reads the student's vectors"
    own = EncoderSettings(model=tiny_encoder, max_passage_tokens=64)
    teacher = recipe.teachers["encoder"].model_copy(update={"encoder": own, "pool": PoolSettings(gpus=1)})
    changed = recipe.model_copy(update={"teachers": recipe.teachers | {"encoder": teacher}})
    step, student = steps_of(changed)["scores/encoder-vectors"], before["embeddings/student"]
    assert (step.units, step.tokens, step.model) == (student.units, student.tokens, tiny_encoder)
    assert (step.on_gpu, step.devices, student.on_gpu) == (True, 1.0, False)
    assert [need.stage for need in memory_needs(changed, sample_corpus(changed), GPUS["h100"])] == [
        "embeddings (student)", "scores (encoder)", "training",
    ]  # fmt: skip


def test_queries_of_the_log_are_counted_in_every_stage_that_works_on_them(recipe: Recipe, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"_id": str(number), "text": "herring"}) + "\n" for number in range(30)))
    corpus = recipe.corpus.model_copy(update={"query_log": str(log)})
    before, after = steps_of(recipe), steps_of(recipe.model_copy(update={"corpus": corpus}))
    assert after["query_log"].units == 30
    assert after["queries"] == before["queries"]
    for table in ("embeddings/student", "candidates", "scores/bm25", "lists"):
        assert after[table].units == before[table].units + 30, table


def changed(recipe: Recipe, corpus: dict | None = None, **generation: object) -> Recipe:
    """The recipe with other settings, validated."""
    data = recipe.model_dump()
    data["corpus"] |= corpus or {}
    data["generation"] |= generation
    return Recipe.model_validate(data)


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


def planned(recipe: Recipe) -> dict[str, PlanStep]:
    """The steps of a plan by their tables, with the number of sources that the recipe decides."""
    sample = with_sources(recipe, sample_corpus(recipe), CPU, CPU)
    return {step.table: step for step in estimate_work(recipe, sample)}


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


def test_hours_on_gpus_are_not_added_to_those_on_cpus_and_unknown_ones_are_named(recipe: Recipe) -> None:
    steps = [
        PlanStep("queries", "queries", "a", 1, 1, 0.0, "a", 1.0, on_gpu=True),
        PlanStep("embeddings", "embeddings/b", "[b]: b", 1, 1, 0.0, "b", 1.0, on_gpu=True),
        PlanStep("training", "training", "c", 1, 0, 0.0, "c", 1.0),
    ]
    hours = [HoursRange(2.0, 4.0), None, HoursRange(100.0, 200.0)]
    plan = Plan(sample_corpus(recipe), steps, [], hours, GPUS["h100"], CPU)
    assert total_hours(plan) == (HoursRange(2.0, 4.0), HoursRange(100.0, 200.0))
    console = Console(record=True, width=200, file=io.StringIO())
    print_plan(recipe, plan, 2, 3.0, console)
    output = console.export_text()
    for words in (
        "In all 2.0 h to 4.0 h of one h100", "On 2 of them: 1.0 h to 2.0 h.", "At 3 an hour: 6.00 to 12.00.",
        "Beside that, 100.0 h to 200.0 h on a CPU.", "Not counted", "embeddings/b.", "embeddings ([b]: b)",
    ):  # fmt: skip
        assert words in output


def test_ranks_of_a_whole_cluster_do_not_share_the_memory_of_the_machine_that_plans(recipe: Recipe) -> None:
    many = recipe.model_copy(update={"training": recipe.training.model_copy(update={"ranks": 4000})})
    need = memory_needs(many, sample_corpus(many), CPU)[-1]
    assert need.limit > machine_memory().total / (psutil.cpu_count() or 1) / 4


def test_real_hours_are_counted_in_the_devices_of_the_plan() -> None:
    """One worker with two GPUs works 3600 s: two hours of a GPU. Four ranks work for an hour: four hours."""
    tables = [{"table": "queries", "units_done": 5, "tokens": 7, "seconds": 3600.0}]
    lines = [{"step": 1, "queries": 3600, "queries_per_s": 1.0, "tokens_per_s": 2.0}]
    planned = [
        PlanStep("queries", "queries", "a", 10, 1, 0.0, "a", 9.0, on_gpu=True, devices=2.0),
        PlanStep("training", "training", "b", 10, 0, 0.0, "b", 9.0, on_gpu=True),
    ]
    plan = {"steps": [{**asdict(step), "hours": [1.0, 2.0]} for step in planned]}
    rows = compare_with_plan(plan, tables, lines, 4, {})
    assert [row["hours"] for row in rows] == [([1.0, 2.0], 2.0), ([1.0, 2.0], 4.0)]


def test_judged_queries_and_passages_are_planned_once_for_the_base_and_once_for_the_student(
    recipe: Recipe, tmp_path: Path
) -> None:
    texts = [f"{word} " * 50 for word in ("alpha", "beta", "gamma")]
    folder = tmp_path / "judged"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": str(row), "text": text} for row, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in corpus))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "which?"}\n{"_id": "r", "text": "why?"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t0\t1\nr\t1\t1\n")
    judged = recipe.evaluation.model_copy(update={"dataset": str(folder)})
    changed = recipe.model_copy(update={"evaluation": judged})
    step = make_plan(changed).steps[-1]
    assert (step.stage, step.units, step.on_gpu, step.devices) == ("evaluation", 2 * (2 + 3), False, 1.0)
    assert "2 judged queries" in step.work
    collection = sample_corpus(changed).judged
    assert collection and collection.tokens == recipe.student.max_passage_tokens, "texts of 50 words are truncated"
    assert step.tokens == pytest.approx(2 * (3 * collection.tokens + 2 * 14))
    (folder / "corpus.jsonl").write_text('{"_id": "0", "text": "a"}\n{"_id": "1", "text": 7}\n')
    with pytest.raises(InputError, match=r"corpus\.jsonl, line 2: field 'text' is 7 \(int\)"):
        sample_corpus(changed)
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(InputError, match=r"corpus\.jsonl: cannot be read \(No such file"):
        sample_corpus(changed)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in corpus))
    pooled = judged.model_copy(update={"pool": PoolSettings(gpus=1.0)})
    step = estimate_work(recipe.model_copy(update={"evaluation": pooled}), sample_corpus(changed))[-1]
    assert (step.on_gpu, step.devices) == (True, 1.0)

    planned = {"steps": [{**asdict(step), "hours": [1.0, 2.0]}]}
    record = {"queries": 2, "passages": 3, "seconds": 1800.0}
    (row,) = compare_with_plan(planned, [], [], 1, record)
    assert (row["units"], row["hours"]) == ((10, 10), ([1.0, 2.0], 0.5))
    tables = [{"table": "judged/base/passages", "units_done": 3, "tokens": 170, "seconds": 3600.0}]
    (row,) = compare_with_plan(planned, tables, [], 1, record)
    assert (row["units"], row["tokens"][1], row["hours"][1]) == ((10, 10), 170, 1.0)
    assert not compare_with_plan(planned, [], [], 1, {})


def test_an_unknown_gpu_is_refused_and_the_known_ones_are_named(recipe: Recipe) -> None:
    with pytest.raises(InputError, match="--gpu h1000: no such GPU is known; there are a10, l4"):
        make_plan(recipe, "h1000")


def test_a_plan_fits_this_machine_and_its_record_holds_every_stage(recipe: Recipe) -> None:
    plan = make_plan(recipe)
    refuse_what_does_not_fit(plan)
    record = json.loads(json.dumps(plan.record()))
    assert [step["stage"] for step in record["steps"]] == [
        "corpus", "queries", "embeddings", "candidates", "scores", "scores", "lists", "training",
        "evaluation",
    ]  # fmt: skip
    assert all(step["hours"] and step["hours"][0] <= step["hours"][1] for step in record["steps"])


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_calibration_times_a_shard_of_each_stage_and_leaves_nothing_behind(recipe: Recipe, tmp_path: Path) -> None:
    from launcher.plan.calibrate import calibrate, small_copy

    own_folder = tmp_path / "run-calibration"  # of the user
    own_folder.mkdir()
    (own_folder / "notes.txt").write_text("mine")
    quick = recipe.model_copy(update={"training": recipe.training.model_copy(update={"ranks": 1})})
    before = make_plan(quick)
    after = calibrate(quick, before)
    hours = {step.table: hours for step, hours in zip(after.steps, after.hours, strict=True)}
    evaluation = hours.pop("evaluation")
    assert all(measured and measured.low == measured.high > 0 for measured in hours.values()), hours
    assert evaluation and evaluation == before.hours[-1], "it keeps its estimate: the small run has no judged queries"
    assert [step.units for step in after.steps] == [step.units for step in before.steps], (
        "the plan stays the whole run's"
    )
    rows = max(teacher.rows_per_shard for teacher in quick.teachers.values())
    assert small_copy(quick, "elsewhere").corpus.max_sources * 6 >= rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml", "run-calibration"]
    assert (own_folder / "notes.txt").read_text() == "mine"


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
