"""The whole way, from a hundred passages to a judged student, on the real engines."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from cluster import session
from cluster.errors import InputError
from cluster.progress import Progress
from cluster.schemas import STAGES
from cluster.settings import ClusterSettings
from cluster.status import status
from cluster.storage import Storage
from launcher.pipeline import execute
from launcher.recipe import load_recipe

LISTWISE = str(Path(sys.executable).with_name("listwise"))
QUIET = Progress(quiet=True)


def recipe_text(hundred: Path, encoder: str, workdir: Path) -> str:
    """Every stage with its real engine, sized for seconds."""
    return yaml.safe_dump(
        {
            "name": "hundred",
            "workdir": str(workdir),
            "corpus": {"path": str(hundred), "rows_per_shard": 40},
            "generation": {"engine": "extractive", "rows_per_shard": 30, "pool": {"workers": 1}},
            "retrieval": {"depth": 20, "round_trip_rank": 20, "min_candidates": 10, "rows_per_shard": 200},
            "teachers": {
                "bm25": {"kind": "bm25", "weight": 0.05, "rows_per_shard": 200},
                "encoder": {"kind": "bi_encoder", "weight": 0.01},
            },
            "lists": {"length": 10, "require_source_first": False},
            "student": {"model": encoder, "max_query_tokens": 16, "max_passage_tokens": 32, "dtype": "float32"},
            "training": {
                "ranks": 2, "cpus_per_rank": 0.5, "queries_per_step": 16, "list_length": 8, "max_steps": 4, "epochs": 1,
                "evaluate_every": 2, "warmup_steps": 1, "learning_rate": 1e-3, "dtype": "float32", "trackers": [],
            },
            "evaluation": {"dataset": str(hundred)},
            "cluster": {"cpus": 2, "wait_timeout_s": 120, "io_pool": {"workers": 1}},
        },
        sort_keys=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One Ray of two CPUs for all runs of this module; a run joins the session that its process has."""
    started = session.connect(ClusterSettings(cpus=2))
    yield
    if started:
        session.disconnect()


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
    done = listwise("run", str(folder / "recipe.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


def listwise(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "160", "NO_COLOR": "1"}
    return subprocess.run([LISTWISE, *words], capture_output=True, text=True, env=environment, timeout=280, check=False)


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
    stages = status(Storage.open(str(finished / "run")))
    assert {stage["stage"] for stage in stages} == set(STAGES) - {"training", "evaluation"}
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
    from cluster.tables import Table

    lines = (hundred / "qrels" / "test.tsv").read_text().splitlines()[1:]
    judged = {line.split("\t")[1] for line in lines}
    queries = Table.open(Storage.open(str(finished / "run")), "queries").read(["source_id"])
    sources = set(queries["source_id"].to_pylist())
    assert len(sources) > 40
    assert not sources & judged


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
    settings = load_recipe(str(path))
    made: dict[str, tuple[int, str]] = {}
    for stage in STAGES:
        execute(settings, stage, progress=QUIET)
        now = fingerprints(workdir)
        assert now.items() >= made.items(), f"{stage} touched what an earlier stage had finished"
        assert len(now) > len(made), f"{stage} made nothing"
        made = now
    assert data_files(workdir) == data_files(finished / "run")


@pytest.mark.slow
def test_ctrl_c_says_how_to_continue_and_continuing_finishes(finished: Path, recipe: Callable[..., Path]) -> None:
    path = recipe()
    workdir = path.with_suffix("")
    running = subprocess.Popen(
        [LISTWISE, "run", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    limit = time.monotonic() + 120
    while not list(workdir.glob("queries/commits/*")) and time.monotonic() < limit:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 130, errors
    assert f"continue with: listwise run {path}" in errors
    assert "Traceback" not in errors
    done = listwise("run", str(path))
    assert done.returncode == 0, done.stderr
    assert data_files(workdir) == data_files(finished / "run")


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


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_without_judged_queries_the_run_ends_with_a_student_and_no_verdict(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    changes = [f"workdir={tmp_path}/run", "evaluation.dataset=null", "training.max_steps=2"]
    unjudged = load_recipe(str(finished / "recipe.yaml"), changes)
    assert execute(unjudged, overwrite=frozenset({"training"}), progress=QUIET) is None
    assert (tmp_path / "run" / "model").is_dir()
    assert "trained, not judged" in (tmp_path / "run" / "report.html").read_text()


# --- bad input ---


def refused(recipe: Path, *changes: str, until: str = "evaluation") -> str:
    """The one message of a run that must not start; nothing may be left of it."""
    workdir = recipe.with_suffix("")
    with pytest.raises(InputError) as caught:
        execute(load_recipe(str(recipe), changes), until, progress=QUIET)
    assert not workdir.exists(), sorted(workdir.rglob("*"))
    return str(caught.value)


def corpus(folder: Path, *lines: str | bytes) -> str:
    path = folder / "corpus.jsonl"
    path.write_bytes(b"".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return f"corpus.path={path}"


def passage(number: int, text: str = "A passage about the harbour and the weighing of herring.") -> str:
    return json.dumps({"_id": f"p{number}", "title": "", "text": f"{text} Number {number}."}) + "\n"


on_local_ray = pytest.mark.usefixtures("local_ray")


@on_local_ray
def test_a_missing_corpus_is_named(recipe: Callable[..., Path], tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere.jsonl") in refused(recipe(), f"corpus.path={tmp_path}/nowhere.jsonl")


@on_local_ray
def test_a_malformed_line_is_named_with_file_and_number(recipe: Callable[..., Path], tmp_path: Path) -> None:
    message = refused(recipe(), corpus(tmp_path, passage(1), passage(2), '{"_id": "p3", "text": \n', passage(4)))
    assert "corpus.jsonl" in message
    assert "line 3" in message


@on_local_ray
def test_an_id_that_stands_twice_is_named(recipe: Callable[..., Path], tmp_path: Path) -> None:
    assert "p7" in refused(recipe(), corpus(tmp_path, passage(7), passage(8), passage(7, "Another text altogether.")))


@on_local_ray
def test_an_empty_corpus_is_refused(recipe: Callable[..., Path], tmp_path: Path) -> None:
    assert "corpus.jsonl" in refused(recipe(), corpus(tmp_path))


@on_local_ray
def test_a_model_folder_that_does_not_exist_is_refused(recipe: Callable[..., Path]) -> None:
    assert "student.model: model './missing/model'" in refused(recipe(), "student.model=./missing/model")


@on_local_ray
def test_qrels_that_name_unknown_passages_are_refused_before_anything_runs(
    recipe: Callable[..., Path], hundred: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "judged"
    shutil.copytree(hundred, folder)
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q00\tno-such-passage\t1\n")
    assert "no-such-passage" in refused(recipe(), f"evaluation.dataset={folder}")


@on_local_ray
def test_when_no_query_is_left_the_message_says_which_filter_took_how_many(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe()
    with pytest.raises(InputError) as caught:
        execute(load_recipe(str(path), ["retrieval.min_candidates=99"]), "candidates", progress=QUIET)
    assert "min_candidates" in str(caught.value)
    assert any(character.isdigit() for character in str(caught.value))


@on_local_ray
def test_a_million_characters_bytes_that_are_no_text_and_empty_texts_do_not_stop_a_run(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    odd = [
        passage(100, "word " * 200_000),
        b'{"_id": "latin", "text": "caf\xe9 by the old harbour wall, open all year"}\n',
        '{"_id": "empty", "text": ""}\n',
        *(passage(number, f"Passage {number} tells of boat {number * 7} and its crew.") for number in range(40)),
    ]
    path = recipe()
    execute(load_recipe(str(path), [corpus(tmp_path, *odd), "evaluation.dataset=null"]), "corpus", progress=QUIET)
    stages = {stage["table"]: stage for stage in status(Storage.open(str(path.with_suffix(""))))}
    assert stages["passages"]["units"] == 43
    assert sum(stages["passages"]["drops"].values()) >= 1, "the empty text is counted"


def test_bad_input_ends_the_command_with_exit_code_2_and_one_message(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe()
    done = listwise("run", str(path), "--set", corpus(tmp_path, passage(1), "not json\n"))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error:") == 1
    assert "line 2" in done.stderr
    assert "Traceback" not in done.stderr
    assert not path.with_suffix("").exists()
