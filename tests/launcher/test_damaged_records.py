"""Files of a workdir that a power cut left empty or short, or that a person changed, never give a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import RunError
from cluster.run import Run
from cluster.settings import ClusterSettings
from cluster.watch.progress import Progress
from cluster.watch.status import status
from launcher.report.page import build_report
from tests.launcher.workdir import complete_workdir

PARTS = {"empty": b"", "cut": None, "a list": b"[1]", "another object": b'{"a": 1}', "a word": b"null"}
FILES = {
    "planned.json": None, "versions.json": None, "training/record.json": None, "evaluation/record.json": None,
    "agreement/record.json": None, "lists/progress.json": None, "training/progress.json": None,
    "recipe.yaml": "recipe.yaml cannot be read .* The command that began the run writes it again",
    "lists/plan.json": "lists/plan.json cannot be read .* --overwrite lists",
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", FILES)
def test_status_and_report_go_on_without_it_or_say_what_to_do(tmp_path: Path, name: str, part: str) -> None:
    storage = complete_workdir(tmp_path / "run")
    whole = storage.get(name) if storage.exists(name) else b'{"steps": [], "a": 1}'
    content = PARTS[part]
    storage.put(name, whole[: len(whole) // 2] if content is None else content)
    expected = FILES[name]
    if expected and not (name == "lists/plan.json" and part == "another object"):  # the plan of a one-process stage
        with pytest.raises(RunError, match=expected):
            status(storage), build_report(storage)
        return
    status(storage)
    build_report(storage)


@pytest.mark.parametrize("part", PARTS)
def test_a_stage_in_one_process_is_done_again_without_its_record_and_refused_without_its_plan(
    tmp_path: Path, part: str
) -> None:
    def damage(path: str) -> None:
        whole, content = run.storage.get(path), PARTS[part]
        run.storage.put(path, whole[: len(whole) // 2] if content is None else content)

    with Run(str(tmp_path / "run"), ClusterSettings(), progress=Progress(quiet=True)) as run:
        made: list[int] = []

        def stage() -> int:
            return run.execute_in_process("training", {"a": 1}, lambda: made.append(1) or {"b": 2}, title="x")["b"]

        assert (stage(), stage(), len(made)) == (2, 2, 1)
        damage("training/record.json")
        if part != "another object":
            assert (stage(), len(made)) == (2, 2)
        damage("training/plan.json")
        with pytest.raises(RunError, match=r"training/plan.json cannot be read\. .* --overwrite training"):
            stage()
