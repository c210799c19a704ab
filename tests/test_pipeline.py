"""The whole way, from a hundred passages to a judged student, on the real engines."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cluster.errors import InputError
from cluster.schemas import STAGES
from cluster.tables.removal import is_removable
from cluster.tables.storage import Storage
from cluster.watch.progress import Progress
from cluster.watch.status import status
from launcher.pipeline import execute
from launcher.recipe_file import load_recipe
from tests.pipeline import LISTWISE, listwise, recipe_text

QUIET = Progress(quiet=True)
SECRET = "marker-of-a-secret-0123456789"


@pytest.fixture
def recipe(tmp_path: Path, hundred: Path, tiny_encoder: str) -> Callable[..., Path]:
    """Writes the recipe of a run in its own folder; returns the file."""

    def make(name: str = "run") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(recipe_text(hundred, tiny_encoder, tmp_path / name))
        return path

    return make


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, hundred: Path, tiny_encoder: str) -> Path:
    """Folder of a run made by the command itself, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "recipe.yaml").write_text(recipe_text(hundred, tiny_encoder, folder / "run"))
    keys = dict.fromkeys(("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN"), SECRET)
    before = os.umask(0o027)
    try:
        done = listwise("run", str(folder / "recipe.yaml"), environment=keys)
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


def fingerprints(workdir: Path) -> dict[str, tuple[int, str]]:
    """Every file that work leaves behind: when it was written, and its content."""
    files = [path for path in workdir.rglob("*") if path.is_file() and path.parent != workdir]
    return {
        str(path.relative_to(workdir)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    }


def data_files(workdir: Path) -> list[str]:
    """Committed data files; their names hold the digest of their content."""
    return sorted(str(path.relative_to(workdir)) for path in workdir.rglob("*.parquet"))


# --- a run ---


@pytest.mark.slow
def test_one_command_goes_from_a_corpus_to_a_judged_student(finished: Path) -> None:
    printed = (finished / "stdout").read_text()
    for part in ("nDCG@10", "base", "student", "difference", f"{finished}/run/model", f"{finished}/run/report.html"):
        assert part in printed
    record = json.loads((finished / "run" / "evaluation" / "record.json").read_text())
    assert record["verdict"] in printed
    assert "Traceback" not in (finished / "stderr").read_text()


def test_every_planned_unit_of_every_table_is_accounted_for(finished: Path) -> None:
    stages = status(Storage(str(finished / "run")))
    assert {stage["stage"] for stage in stages} == set(STAGES) - {"training", "evaluation", "grades", "approved"}
    for stage in stages:
        assert stage["shards_done"] == stage["shards"] > 0, stage["table"]
        assert stage["rows"] + sum(stage["drops"].values()) + stage["rejects"] == stage["units"], stage["table"]


def test_the_exported_model_loads_and_the_report_holds_its_metrics(finished: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(finished / "run" / "model"), device="cpu")
    assert model.encode(["where is the harbour"]).shape[0] == 1
    report = json.loads((finished / "run" / "report.json").read_text())
    assert report["student"].keys() >= {"ndcg@10", "recall@100", "mrr@10", "queries", "passages"}
    assert report["student"]["queries"] == 20
    assert report["student"]["passages"] == 100
    html = (finished / "run" / "report.html").read_text()
    assert report["verdict"].split(":")[0] in html
    assert html.count("<polyline") >= 3, "loss, dev nDCG, repeats"


def test_no_query_is_written_for_a_passage_that_evaluation_judges(finished: Path, hundred: Path) -> None:
    from cluster.tables.table import Table

    lines = (hundred / "qrels" / "test.tsv").read_text().splitlines()[1:]
    judged = {line.split("\t")[1] for line in lines}
    queries = Table.open(Storage(str(finished / "run")), "queries").read(["source_id"])
    sources = set(queries["source_id"].to_pylist())
    assert len(sources) > 40
    assert not sources & judged


def test_what_a_run_writes_has_the_modes_that_the_umask_gives(finished: Path) -> None:
    found: dict[str, list[Path]] = {}
    for path in (finished / "run").rglob("*"):
        found.setdefault(f"{'folder' if path.is_dir() else 'file'} {path.stat().st_mode & 0o777:o}", []).append(path)
    assert found.keys() == {"folder 750", "file 640"}, {mode: paths[:5] for mode, paths in found.items()}


def test_every_file_of_every_stage_is_one_that_overwrite_would_remove(finished: Path) -> None:
    run = finished / "run"
    files = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    left = {name for name in files if not is_removable(name)}
    assert left == {"recipe.yaml", "versions.json", "planned.json", "report.json", "report.html"}


def test_keys_of_the_environment_are_in_no_file_and_no_word_of_a_run(finished: Path) -> None:
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert len(files) > 40
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_running_again_does_no_work(finished: Path) -> None:
    before = fingerprints(finished / "run")
    done = listwise("run", str(finished / "recipe.yaml"))
    assert done.returncode == 0, done.stderr
    assert fingerprints(finished / "run") == before
    assert done.stdout == (finished / "stdout").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_run_cut_after_any_stage_continues_to_the_same_tables(finished: Path, recipe: Callable[..., Path]) -> None:
    path = recipe()
    workdir = path.with_suffix("")
    settings = load_recipe(str(path), ["training.ranks=1", "training.max_steps=1"])
    made: dict[str, tuple[int, str]] = {}
    for stage in (name for name in STAGES if name not in ("grades", "approved")):  # without a judge they make nothing
        execute(settings, stage, progress=QUIET)
        now = fingerprints(workdir)
        assert now.items() >= made.items(), f"{stage} touched what an earlier stage had finished"
        assert len(now) > len(made), f"{stage} made nothing"
        made = now
    assert data_files(workdir) == data_files(finished / "run")


def test_a_run_does_what_its_plan_said_and_the_report_sets_them_side_by_side(finished: Path) -> None:
    """Filters only leave less. The plan was made while the run began, with the student's own tokenizer."""
    run = finished / "run"
    planned = {step["table"]: step for step in json.loads((run / "planned.json").read_text())["steps"]}
    report = json.loads((run / "report.json").read_text())
    compared = {one["step"]: one for one in report["plan"]}
    assert list(compared) == list(planned)
    for name, one in compared.items():
        units, done = one["units"]
        assert units == planned[name]["units"]
        assert 0 < done <= units, name
    assert compared["passages"]["units"] == [100, 100]
    assert compared["training"]["units"] == [4 * 16, 4 * 16]
    for name in ("embeddings/student", "training"):
        tokens, done = compared[name]["tokens"]
        assert 0.5 * tokens < done < 1.2 * tokens, name
    page = (run / "report.html").read_text()
    assert "Plan and reality" in page
    assert 'scope="row" title="the best 10">lists</th>' in page


def stop(path: Path, begun: Callable[[], object], number: signal.Signals) -> None:
    """Starts the run of a recipe with a training of many steps, and signals its group once `begun` holds."""
    command = [LISTWISE, "run", str(path), "--set", "training.max_steps=4000"]
    command += ["--set", "training.epochs=1000", "--set", "training.evaluate_every=4000"]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    limit = time.monotonic() + 150
    while not begun() and running.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    if running.poll() is None:
        os.killpg(running.pid, number)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 128 + number, errors
    assert f"continue with: {' '.join(['listwise', *command[1:]])}" in errors
    assert "Traceback" not in errors


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_ctrl_c_in_generation_says_how_to_continue_and_what_is_done_is_kept(
    finished: Path, recipe: Callable[..., Path]
) -> None:
    path = recipe()
    workdir = path.with_suffix("")
    stop(path, lambda: list(workdir.glob("queries/commits/*")), signal.SIGINT)
    assert not (workdir / "lists").exists(), "it was interrupted on the way"
    kept = {name: one for name, one in fingerprints(workdir / "queries").items() if name.startswith("data/")}
    assert kept
    execute(load_recipe(str(path)), "queries", progress=QUIET)
    assert fingerprints(workdir / "queries").items() >= kept.items()
    assert data_files(workdir / "queries") == data_files(finished / "run" / "queries")


@pytest.mark.cluster
def test_sigterm_in_training_says_how_to_continue_and_leaves_a_checkpoint(finished: Path, tmp_path: Path) -> None:
    path, workdir = tmp_path / "recipe.yaml", tmp_path / "run"
    path.write_text((finished / "recipe.yaml").read_text().replace(str(finished), str(tmp_path)))
    shutil.copytree(finished / "run", workdir, ignore=shutil.ignore_patterns("training", "model", "evaluation"))
    metrics, states = workdir / "training" / "metrics.jsonl", workdir / "training" / "checkpoints"
    stop(path, lambda: metrics.is_file() and '"loss"' in metrics.read_text(), signal.SIGTERM)
    assert data_files(workdir) == data_files(finished / "run")
    last = max(json.loads(line)["step"] for line in metrics.read_text().splitlines())
    assert 0 < last < 4000
    assert [each.name for each in states.iterdir()] == [f"step-{last:08d}"]
    assert not (workdir / "model").exists()


@pytest.mark.usefixtures("local_ray")
def test_a_run_that_was_moved_is_judged_where_it_is_and_a_record_names_no_other_model(
    finished: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(finished / "run", moved, ignore=shutil.ignore_patterns("evaluation"))
    written = json.loads((moved / "training" / "record.json").read_text())
    assert written["model"] == "model", "relative to the workdir"
    (moved / "training" / "record.json").write_text(json.dumps(written | {"model": "/a/model/of/somebody"}))
    record = execute(load_recipe(str(finished / "recipe.yaml"), [f"workdir={moved}"]), progress=QUIET)
    before = json.loads((finished / "run" / "evaluation" / "record.json").read_text())
    assert record["student"] == before["student"]
    assert "/a/model" not in (moved / "report.html").read_text()


@pytest.mark.usefixtures("local_ray")
def test_a_changed_recipe_is_refused_until_the_stage_is_overwritten(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    changes = [f"workdir={tmp_path}/run", "lists.length=9"]
    changed = load_recipe(str(finished / "recipe.yaml"), changes)
    with pytest.raises(InputError, match=r"(?s)lists.*was 10, is 9.*--overwrite lists"):
        execute(changed, progress=QUIET)
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["lists"]["length"] == 10
    execute(changed, "lists", frozenset({"lists"}), progress=QUIET)
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["lists"]["length"] == 9
    assert not (tmp_path / "run" / "training").exists(), "what came after the overwritten stage is gone"


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_with_words_alone_and_nothing_to_judge_by_the_run_ends_with_a_student_and_no_verdict(
    recipe: Callable[..., Path],
) -> None:
    path = recipe()
    words = "{bm25: {kind: bm25}}"
    changes = [f"retrieval.retrievers={words}", f"teachers={words}", "lists.dev_fraction=0", "training.ranks=1"]
    unjudged = load_recipe(str(path), [*changes, "training.max_steps=2", "evaluation.dataset=null"])
    assert execute(unjudged, progress=QUIET) is None
    assert (path.with_suffix("") / "model").is_dir()
    assert "trained, not judged" in (path.with_suffix("") / "report.html").read_text()


def test_what_killed_workers_left_behind_is_collected_when_the_run_is_started_again(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    before = fingerprints(tmp_path / "run")
    settings = load_recipe(str(finished / "recipe.yaml"), [f"workdir={tmp_path}/run"])
    leave_behind(tmp_path / "run")
    assert fingerprints(tmp_path / "run") != before
    execute(settings, progress=QUIET)
    assert fingerprints(tmp_path / "run") == before


def test_gc_removes_what_killed_workers_left_behind_and_nothing_else(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    before = fingerprints(tmp_path / "run")
    leave_behind(tmp_path / "run")
    done = listwise("gc", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["queries: 3 files removed", "scores/bm25: 1 file removed"]
    assert fingerprints(tmp_path / "run") == before
    assert listwise("gc", str(tmp_path / "run")).stdout == "Nothing to remove.\n"


def leave_behind(workdir: Path) -> None:
    """Files of workers that were killed: before the commit, inside a put, of an older plan."""
    for path in (
        "queries/data/00000.feed0123456789ab.parquet",
        "queries/data/00001.beef0123456789ab.parquet#1",
        "queries/commits/00000.0ddba110123456789ab.json",
        "scores/bm25/data/00000.feed0123456789ab.parquet",
    ):
        assert (workdir / path).parent.is_dir()
        (workdir / path).write_bytes(b"left by a worker that died")


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_demo_recipe_runs_on_a_folder_of_jsonl_after_two_lines_are_changed(tmp_path: Path, hundred: Path) -> None:
    lines = (hundred / "corpus.jsonl").read_text().splitlines()
    (tmp_path / "my-corpus").mkdir()
    (tmp_path / "my-corpus" / "one.jsonl").write_text("\n".join(lines[:60]))
    (tmp_path / "my-corpus" / "two.jsonl").write_text("\n".join(lines[60:]))
    assert listwise("init", "my.yaml", cwd=tmp_path).returncode == 0
    shipped = (tmp_path / "my.yaml").read_text().splitlines()
    places = {"  path:": f"  path: {tmp_path}/my-corpus/", "  dataset:": f"  dataset: {hundred}"}
    changed = [next((places[key] for key in places if line.startswith(key)), line) for line in shipped]
    assert sum(before != after for before, after in zip(shipped, changed, strict=True)) == 2
    (tmp_path / "my.yaml").write_text("\n".join(changed))
    short = [f"workdir={tmp_path}/run", "training.max_steps=2", "training.ranks=1"]
    execute(load_recipe(str(tmp_path / "my.yaml"), short), progress=QUIET)
    student = json.loads((tmp_path / "run" / "report.json").read_text())["student"]
    assert (student["queries"], student["passages"]) == (20, 100)
    assert (tmp_path / "run" / "report.html").is_file()
