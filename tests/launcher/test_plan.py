"""The figures of a plan against those of a calculation by hand, of another library, or of a real run."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from cluster.errors import InputError
from cluster.machines.memory import machine_memory
from cluster.settings import PoolSettings
from cluster.tables.storage import Storage
from distill.settings.encoders import EncoderSettings
from launcher import evaluation_set
from launcher.chunking import chunking_of
from launcher.plan.corpus import CorpusSample, sample_corpus
from launcher.plan.devices import GPUS
from launcher.plan.hours import HoursRange, estimate_hours
from launcher.plan.memory import memory_needs
from launcher.plan.models import model_size
from launcher.plan.plan_step import PlanStep
from launcher.plan.prompts import prompt_tokens
from launcher.plan.reality import compare_with_plan
from launcher.plan.show import Plan, make_plan, print_plan, refuse_what_does_not_fit, total_hours
from launcher.plan.work import estimate_work
from launcher.recipe import Recipe
from tests.launcher.planned import CPU, steps_of, with_gpus
from tests.pipeline import listwise, recipe_text


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
    training = recipe.training.model_copy(update={"gpus_per_rank": 1.0, "ranks": 8, "micro_batch_tokens": 2048})
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
    print_plan(recipe, plan, 2, 3.0, console=console)
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


def test_without_a_number_of_ranks_one_has_the_memory_of_the_machine(recipe: Recipe) -> None:
    training = recipe.training.model_copy(update={"ranks": None, "cpus_per_rank": None})
    needs = memory_needs(recipe.model_copy(update={"training": training}), sample_corpus(recipe), CPU)
    [need] = [need for need in needs if need.stage == "training"]
    assert need.limit == machine_memory().total


def test_a_judged_collection_that_is_cut_is_planned_by_its_chunks(recipe: Recipe, tmp_path: Path) -> None:
    """As many as the run then cuts."""
    folder = tmp_path / "judged"
    (folder / "qrels").mkdir(parents=True)
    sentence = "The ledger of the harbour names every ship that came in."
    rows = [{"_id": str(row), "title": "", "text": f"{sentence} " * (1 + 3 * row)} for row in range(4)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in rows))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "which?"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t0\t1\n")
    evaluation = recipe.evaluation.model_copy(update={"dataset": str(folder), "cut": True})
    corpus = recipe.corpus.model_copy(update={"chunk_tokens": 24})
    changed = recipe.model_copy(update={"evaluation": evaluation, "corpus": corpus})
    prepared = evaluation_set.prepare(Storage(str(tmp_path / "run")), evaluation, chunking_of(changed))
    assert prepared
    chunks = [json.loads(line) for line in (prepared.folder / "corpus.jsonl").read_text().splitlines()]
    planned = sample_corpus(changed).judged
    assert planned and planned.passages == len(chunks) > 2 * len(rows)
    assert planned.tokens <= 24


def test_a_plan_names_the_files_of_a_folder_that_are_not_read(recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"_id": "1", "title": "", "text": "The ledger of the harbour."}\n')
    (folder / "b.xml").write_text("<p/>")
    changed = recipe.model_copy(update={"corpus": recipe.corpus.model_copy(update={"path": str(folder)})})
    said = io.StringIO()
    print_plan(changed, make_plan(changed), 1, None, console=Console(file=said, width=200))
    assert "b.xml" in said.getvalue()
