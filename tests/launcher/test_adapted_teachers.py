"""A teacher that is made in the run, before the run: mistakes, plan, placement; and after it: the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.errors import InputError
from distill.teachers.adapting.judge import in_words, judge
from launcher.placement import refuse_training_in_a_bucket, refuse_what_no_node_holds
from launcher.plan.corpus import sample_corpus
from launcher.plan.memory import memory_needs
from launcher.plan.work import estimate_work
from launcher.recipe import Recipe
from launcher.recipe_file import load_recipe
from tests.launcher.planned import CPU
from tests.launcher.report.test_report import page
from tests.launcher.workdir import complete_workdir
from tests.pipeline import recipe_text

MADE = ("teachers.made.kind=adapted",)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("teachers.bm25.adapt.epochs=2",), "`adapt` is a field of kind adapted, and this teacher is bm25"),
        ((*MADE, "teachers.made.template=monot5"), "`template` is a field of kind"),
        ((*MADE, "teachers.made.adapt.list_length=1"), "greater than or equal to 2"),
        ((*MADE, "teachers.made.adapt.held_out_fraction=0"), "greater than 0"),
        ((*MADE, "teachers.made.adapt.list_length=21"), "list_length is 21, but retrieval.depth is 20"),
        ((*MADE, "teachers.made.adapt.epoch=2"), "epochs"),
    ],
)
def test_a_mistake_in_a_recipe_is_refused(
    hundred: Path, tiny_encoder: str, tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text(hundred, tiny_encoder, tmp_path / "run"))
    with pytest.raises(InputError) as caught:
        load_recipe(str(path), overrides)
    assert message in str(caught.value)


def test_a_recipe_of_adapted_teachers_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: a\nworkdir: b\ncorpus: {path: c}\nstudent: {model: all-MiniLM-L6-v2}\n"
        "teachers: {made: {kind: adapted}}\n"
    )
    with pytest.raises(InputError, match="every teacher is of kind adapted"):
        load_recipe(str(path))


@pytest.fixture
def recipe(hundred: Path, tiny_encoder: str, tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text(hundred, tiny_encoder, tmp_path / "run"))
    return load_recipe(str(path), (*MADE, "teachers.made.adapt.queries_per_step=10", "teachers.made.adapt.epochs=3"))


def test_the_plan_counts_the_training_and_the_scores(recipe: Recipe) -> None:
    sample = sample_corpus(recipe)
    steps = {step.table: step for step in estimate_work(recipe, sample)}
    training, scores = steps["teachers/made"], steps["scores/made"]
    queries = scores.units
    lists = round(queries * 0.9)
    assert training.units == 3 * (lists // 10) * 10
    pairs = 3 * training.units * 8 + round(queries * 0.1) * 20
    assert training.tokens == pytest.approx(pairs * training.length)
    assert scores.tokens == pytest.approx(queries * 20 * training.length)
    stages = [need.stage for need in memory_needs(recipe, sample, CPU)]
    assert stages.index("adapting (made)") < stages.index("scores (made)")


def test_a_bucket_and_ranks_that_no_node_holds_are_refused(recipe: Recipe, run, tmp_path: Path) -> None:
    in_bucket = recipe.model_copy(update={"workdir": "s3://bucket/run"})
    refuse_training_in_a_bucket(in_bucket, "candidates")
    with pytest.raises(InputError, match=r"teachers\.made is trained in the run"):
        refuse_training_in_a_bucket(in_bucket, "scores")
    made = recipe.teachers["made"]
    adapt = made.adapting.model_copy(update={"gpus_per_rank": 7.0})
    greedy = {**recipe.teachers, "made": made.model_copy(update={"adapt": adapt})}
    with pytest.raises(InputError, match=r"adapting \(made\)"):
        refuse_what_no_node_holds(run(), recipe.model_copy(update={"teachers": greedy}))


def test_the_report_shows_both_figures_and_the_decision(tmp_path: Path) -> None:
    storage = complete_workdir(tmp_path / "run")
    text = storage.get("recipe.yaml").decode()
    named = text.replace("teachers:\n", "teachers:\n  made: {kind: adapted, model: null}\n")
    storage.put("recipe.yaml", named.encode())
    others, made, together = [1, 2, 4, 2] * 10, [1, 5, 1, 2] * 10, [1, 1, 2, 2] * 10
    storage.put("teachers/made/record.json", json.dumps({"steps": 10, "lists": 300}).encode())
    assert "Teacher made" not in page(storage).text, "a run that ended before the judgement has a report, too"
    storage.put("teachers/made/judgement.json", json.dumps(judge(others, made, together, [20] * 40)).encode())
    text = " ".join(page(storage).text.split())
    assert "is 0.7500 with it and 0.5625 with the other teachers (+0.1875, 95 % interval" in text
    assert "50.0% and 25.0% of the sources rank first; alone it has 0.6750 and 50.0%; it is kept" in text
    rows = page(storage).text.replace("\n", "").replace(" ", "")
    for words in (
        "theothers0.562525.0%", "made,before0.05000.0%", "made,fine-tuned0.675050.0%", "theothersandmade0.750050.0%",
    ):  # fmt: skip
        assert words in rows
    storage.put("teachers/made/judgement.json", json.dumps(judge(together, made, others)).encode())
    assert "it is left out" in page(storage).text
    assert not judge([2] * 5, [1] * 5, [1] * 5)["kept"], "five queries decide nothing"
    unsure = judge([2] * 60, [9] * 60, [1] * 2 + [2] * 56 + [3] * 2)
    assert unsure["difference"]["mean"] > 0 > unsure["difference"]["low"] and not unsure["kept"]
    assert "left out, since these queries do not show" in in_words({"steps": 10, "lists": 300, **unsure})
