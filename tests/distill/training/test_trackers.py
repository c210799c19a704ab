"""Every tracker is told the numbers under names that it takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from distill.training.trackers import Trackers


def test_mlflow_is_told_names_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow is not installed here; its rule for names is that of mlflow.utils.validation."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    told: dict[str, float] = {}

    class MLflow:
        name, requires_logging_directory = "mlflow", False

        def __init__(self, run_name: str) -> None:
            self.run_name = run_name

        def start(self) -> None: ...

        def store_init_configuration(self, values: dict[str, Any]) -> None: ...

        def log(self, values: dict[str, float], step: int) -> None:
            assert all(re.fullmatch(r"[/\w.\- ]*", name) for name in values), values
            told.update(values)

        def finish(self) -> None: ...

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "mlflow", MLflow)
    with Trackers(["mlflow", "tensorboard"], tmp_path, {"rate": 1e-4}) as trackers:
        trackers.log({"step": 3, "dev_ndcg@10": 0.5, "loss": 1.0})
    assert told == {"dev_ndcg_at_10": 0.5, "loss": 1.0}
    assert any(b"dev_ndcg@10" in path.read_bytes() for path in tmp_path.rglob("events*"))
