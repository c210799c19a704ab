"""The warning of lists that do not fit the temperature: said before a training begins, and only then."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cluster.run import Run
from cluster.schemas import LISTS
from cluster.settings import ClusterSettings
from cluster.watch.progress import Progress
from distill.settings.training import TrainingSettings
from launcher.list_checks import warn_of_temperature
from tests.tables import write_table


@pytest.mark.parametrize(
    ("training", "said"),
    [({"teacher_temperature": 9.0}, "warning: the teachers' lists are flat"),
     ({"teacher_temperature": 1e-3}, "warning: the teachers' lists are saturated"),
     ({"teacher_temperature": 0.1}, ""), ({"teacher_temperature": 9.0, "loss": "ranknet"}, "")],
)  # fmt: skip
def test_flat_and_saturated_lists_are_warned_of_until_training_begins(training: dict, said: str, tmp_path: Path):
    scores = np.sort(np.random.default_rng(0).random((30, 8)))[:, ::-1].tolist()
    rows = [
        {"query_id": f"q{n}", "query_type": "search", "text": "x", "passage_rows": list(range(8)), "scores": one,
         "split": "train", "dev_rows": [], "dev_scores": []}
        for n, one in enumerate(scores)
    ]  # fmt: skip
    lists = write_table(str(tmp_path), LISTS, "lists", rows)
    output = io.StringIO()
    with Run(str(tmp_path), ClusterSettings(), progress=Progress(console=Console(file=output, width=500))) as run:
        warn_of_temperature(run, lists, TrainingSettings(list_length=8, **training))
        assert output.getvalue().startswith(said)
        assert bool(output.getvalue()) == bool(said)
        run.storage.put("training/plan.json", b"{}")
        before = output.getvalue()
        warn_of_temperature(run, lists, TrainingSettings(list_length=8, **training))
        assert output.getvalue() == before
