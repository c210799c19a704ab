"""A stage that no node can hold is refused before the first stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import InputError
from cluster.watch.progress import Progress
from launcher.pipeline import execute
from launcher.placement import demanding_pools, refuse_training_in_a_bucket
from launcher.recipe_file import load_recipe
from tests.pipeline import recipe_text


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("change", "stage"),
    [("teachers.bm25.pool.gpus=8", r"scores \(bm25\)"), ("training.gpus_per_rank=8", "training")],
)
def test_a_late_stage_that_no_node_can_hold_is_refused_before_anything_is_written(
    tmp_path: Path, hundred: Path, tiny_encoder: str, change: str, stage: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe_text(hundred, tiny_encoder, tmp_path / "run"))
    recipe = load_recipe(str(tmp_path / "recipe.yaml"), [change])
    with pytest.raises(InputError, match=rf"(?s)stage {stage}.*8 GPU.*has 2 CPU"):
        execute(recipe, progress=Progress(quiet=True))
    assert not (tmp_path / "run").exists()


def test_an_engine_over_eight_gpus_is_one_worker_that_needs_all_of_them() -> None:
    changes = ["generation.engine=vllm", "generation.model=some/llm", "generation.tensor_parallel=8"]
    pools = demanding_pools(load_recipe("pydocs", changes))
    assert {stage: pool.gpus for stage, pool in pools.items()} == {"queries": 8}


def test_training_in_a_bucket_is_refused_before_any_stage_and_the_stages_before_it_are_not() -> None:
    recipe = load_recipe("pydocs", ["workdir=s3://bucket/run"])
    with pytest.raises(InputError, match=r"workdir 's3://bucket/run': training needs a folder .* or stop before"):
        execute(recipe, progress=Progress(quiet=True))
    refuse_training_in_a_bucket(recipe, "lists")
    refuse_training_in_a_bucket(load_recipe("pydocs", ["workdir=file:///srv/run"]), "evaluation")
