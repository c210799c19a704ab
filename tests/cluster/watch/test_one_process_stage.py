"""The status of a one-process stage is seen from outside while it runs, when it has failed, and when it is done."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import RunError
from cluster.run import Run
from cluster.settings import ClusterSettings
from cluster.tables.storage import Storage
from cluster.watch.one_process_stage import OneProcessMonitor, one_process_stages
from cluster.watch.progress import Progress
from tests.chaos.harness import until


def stage_status(storage: Storage) -> dict[str, Any]:
    (record,) = one_process_stages(storage)
    return record


def test_a_running_training_shows_its_progress_and_its_time_left(tmp_path: Path) -> None:
    storage, progress = Storage(str(tmp_path)), Progress(quiet=True)
    storage.create("training/plan.json", b"{}")
    assert stage_status(storage)["state"] == "stopped"
    with (
        progress.task("training", 100, "queries") as bar,
        OneProcessMonitor(storage, "training", progress, every_s=0.01),
    ):
        bar.resumed(20)
        for _ in range(10):
            bar.advance(4, tokens=400)
            bar.note("loss 0.5")
            time.sleep(0.05)
        until(lambda: stage_status(storage)["units_done"] == 60, "the last report", 10.0)
        record = stage_status(storage)
        assert (record["stage"], record["state"], record["units"], record["unit"]) == (
            "training",
            "running",
            100,
            "queries",
        )
        assert 0 < record["units_per_s"] <= 40 / 0.45
        assert record["tokens_per_s"] == pytest.approx(100 * record["units_per_s"], rel=0.01)
        low, middle, high = record["left_s"]  # ten advances of 4 queries at 0.05 s or more are left
        assert 0 < low <= middle <= high
        assert middle >= 0.3
        assert "training 60/100 queries" in record["now"][0]
        assert "loss 0.5" in record["now"][0]
    assert stage_status(storage)["state"] == "stopped"  # it ended, and wrote no record


def test_a_stage_that_failed_or_is_done_has_that_state(tmp_path: Path) -> None:
    def fail() -> dict[str, Any]:
        raise RunError("the loss of step 3 is nan\nand more")

    with Run(str(tmp_path / "run"), ClusterSettings(), progress=Progress(quiet=True)) as run:
        assert one_process_stages(run.storage) == []
        with pytest.raises(RunError):
            run.execute_in_process("training", {}, fail, title="training")
        assert (stage_status(run.storage)["state"], stage_status(run.storage)["why"]) == (
            "failed",
            "the loss of step 3 is nan",
        )
        run.execute_in_process("training", {}, lambda: {"steps": 3}, title="training")
        assert (stage_status(run.storage)["state"], stage_status(run.storage)["why"]) == ("done", "")
