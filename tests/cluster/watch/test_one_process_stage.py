"""A stage in one piece is seen from outside while it works, when it failed, and when it is done."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import RunError
from cluster.run import Run
from cluster.settings import ClusterSettings
from cluster.tables.storage import Storage
from cluster.watch.one_process_stage import Watch, one_process_stages
from cluster.watch.progress import Progress
from tests.chaos.harness import until


def only(storage: Storage) -> dict[str, Any]:
    (one,) = one_process_stages(storage)
    return one


def test_training_in_work_says_how_far_it_is_and_how_long_it_still_takes(tmp_path: Path) -> None:
    storage, progress = Storage(str(tmp_path)), Progress(quiet=True)
    storage.create("training/plan.json", b"{}")
    assert only(storage)["state"] == "stopped"
    with (
        progress.task("training", 100, "queries") as bar,
        Watch(storage, "training", progress, every_s=0.01),
    ):
        bar.resumed(20)
        for _ in range(10):
            bar.advance(4, tokens=400)
            bar.note("loss 0.5")
            time.sleep(0.05)
        until(lambda: only(storage)["units_done"] == 60, "all to be seen", 10.0)
        one = only(storage)
        assert (one["stage"], one["state"], one["units"], one["unit"]) == ("training", "running", 100, "queries")
        assert 0 < one["units_per_s"] <= 40 / 0.45
        assert one["tokens_per_s"] == pytest.approx(100 * one["units_per_s"], rel=0.01)
        low, middle, high = one["left_s"]  # ten advances of 4 queries at 0.05 s or more are left
        assert 0 < low <= middle <= high
        assert middle >= 0.3
        assert "training 60/100 queries" in one["now"][0]
        assert "loss 0.5" in one["now"][0]
    assert only(storage)["state"] == "stopped"  # over, and no record was kept


def test_failed_and_done_are_called_so(tmp_path: Path) -> None:
    def fail() -> dict[str, Any]:
        raise RunError("the loss of step 3 is nan\nand more")

    with Run(str(tmp_path / "run"), ClusterSettings(), progress=Progress(quiet=True)) as run:
        assert one_process_stages(run.storage) == []
        with pytest.raises(RunError):
            run.once("training", {}, fail, title="training")
        assert (only(run.storage)["state"], only(run.storage)["why"]) == ("failed", "the loss of step 3 is nan")
        run.once("training", {}, lambda: {"steps": 3}, title="training")
        assert (only(run.storage)["state"], only(run.storage)["why"]) == ("done", "")
