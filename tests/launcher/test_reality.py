"""The plan beside reality is that of the settings that run, not of those that the workdir was begun with."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.run import Run
from launcher.plan.reality import PLANNED, BackgroundPlan
from launcher.recipe_file import load_recipe
from tests.pipeline import recipe_text


def test_a_run_with_other_settings_makes_its_plan_anew(run, hundred: Path, tiny_encoder: str, tmp_path: Path) -> None:
    work: Run = run()
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe_text(hundred, tiny_encoder, Path(work.storage.url)))

    def planned(*changes: str) -> dict:
        with BackgroundPlan(work, load_recipe(str(file), changes)) as plan:
            plan.save()
        return json.loads(work.storage.get(PLANNED))

    first = planned() | {"mark": "this one"}
    work.storage.put(PLANNED, json.dumps(first).encode())
    assert planned() == first, "the plan of before is that of these settings"
    other = planned("training.max_steps=2")
    assert "mark" not in other
    units = [next(step["units"] for step in plan["steps"] if step["stage"] == "training") for plan in (first, other)]
    assert units[0] > units[1] > 0
