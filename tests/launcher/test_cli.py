from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.tables.commit import commit_path
from cluster.tables.table import Table
from cluster.watch.heartbeat import Heartbeat, Totals, WorkerState, heartbeat_path, shard_bits, this_driver
from cluster.workers.process import machine_id
from tests.distill.list_tables import write_run
from tests.launcher.workdir import complete_workdir
from tests.pipeline import LISTWISE, CommandHere, listwise


def assert_refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Checks for exit code 2 and one message without a traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr


def test_help_names_every_command_and_exits_0() -> None:
    done = listwise("--help")
    assert done.returncode == 0
    for command in ("init", "plan", "run", "status", "sample", "lists", "evaluate", "report", "teachers", "doctor",
                    "gc", "submit", "jobs", "follow", "stop", "kuberay", "slurm"):  # fmt: skip
        assert f" {command} " in done.stdout


def test_help_costs_little_more_than_importing_typer_and_rich() -> None:
    def seconds(command: list[str]) -> float:
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True, timeout=60)
        return time.perf_counter() - start

    ratios = [seconds([LISTWISE, "--help"]) / seconds([sys.executable, "-c", "import typer, rich"]) for _ in range(7)]
    assert statistics.median(ratios) < 4


@pytest.mark.parametrize(("module", "needed"), [("launcher.cli", []), ("launcher.pipeline", ["numpy"])])
def test_neither_help_nor_a_finished_run_imports_anything_heavy(module: str, needed: list[str]) -> None:
    heavy = ["torch", "ray", "vllm", "faiss", "deepspeed", "transformers", "sentence_transformers", "datasets", "numpy"]
    heavy = [name for name in heavy if name not in needed]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "words", [["run"], ["nonsense"], ["run", "pydocs", "--nonsense"], ["evaluate", "--model", "x"]]
)
def test_bad_usage_exits_2_without_a_traceback(words: list[str]) -> None:
    done = listwise(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Usage: listwise" in done.stderr


def test_a_recipe_with_a_misspelt_key_exits_2_and_writes_nothing(tmp_path: Path) -> None:
    done = listwise("run", "laptop", "--set", f"workdir={tmp_path}/run", "--set", "corpus.pth=x")
    assert_refused(done, "unknown key `corpus.pth`; did you mean `corpus.path`?")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_evaluation_folder_exits_2_and_writes_nothing(tmp_path: Path) -> None:
    done = listwise("run", "laptop", "--set", f"workdir={tmp_path}/run", "--set", "evaluation.dataset=/no/such/folder")
    assert_refused(done, "evaluation.dataset: there is no folder /no/such/folder")
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_fails_exits_1_with_one_message(tmp_path: Path, hundred: Path, tiny_encoder: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "versions.json").write_text("{}")
    (tmp_path / "run" / "records").write_text("a file where the table's folder should be")
    changes = [f"workdir={tmp_path}/run", f"corpus.path={hundred}", f"student.model={tiny_encoder}",
               "evaluation.dataset=null", "retrieval.depth=50"]  # fmt: skip
    done = listwise("run", "laptop", *(word for change in changes for word in ("--set", change)))
    assert done.returncode == 1, done.stderr
    assert f"\nerror: the storage {tmp_path}/run has failed for 0 s" in done.stderr
    assert "records" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_stage_exits_2_and_writes_nothing(tmp_path: Path) -> None:
    for option in ("--until", "--overwrite"):
        done = listwise("run", "laptop", "--set", f"workdir={tmp_path}/run", option, "trainig")
        assert_refused(done, f"{option} trainig", "training")
        assert list(tmp_path.iterdir()) == []


def test_init_writes_a_recipe_that_loads_and_never_replaces_a_file(tmp_path: Path) -> None:
    assert listwise("init", "--recipe", "laptop", cwd=tmp_path).returncode == 0
    text = (tmp_path / "laptop.yaml").read_text()
    assert text.startswith("#")
    assert_refused(listwise("init", "--recipe", "laptop", cwd=tmp_path), "laptop.yaml exists already")
    assert (tmp_path / "laptop.yaml").read_text() == text
    assert_refused(listwise("init", "--recipe", "lap", cwd=tmp_path), "no shipped recipe 'lap'", "laptop")


@pytest.mark.parametrize("command", ["status", "report", "gc"])
def test_looking_at_a_run_that_is_not_there_exits_2_and_creates_nothing(command: str, tmp_path: Path) -> None:
    assert_refused(listwise(command, str(tmp_path / "run")), "there is no folder")
    assert_refused(listwise(command, str(tmp_path)), "holds no run")
    assert list(tmp_path.iterdir()) == []


def test_status_reads_a_run_from_its_files_alone(tmp_path: Path) -> None:
    complete_workdir(tmp_path / "run")
    done = listwise("status", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    line = next(line.split() for line in done.stdout.splitlines() if line.startswith("passages"))
    assert line[:5] == ["passages", "1/1", "175", "25", "0"]
    assert "passages dropped: duplicate 20, too short 5" in done.stdout
    assert "evaluation: done" in done.stdout


def test_status_for_machines_is_json_with_the_state_of_every_table(tmp_path: Path) -> None:
    complete_workdir(tmp_path / "run")
    done = listwise("status", "--json", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    tables = {table["table"]: table for table in json.loads(done.stdout)}
    assert tables["passages"]["drops"] == {"duplicate": 20, "too short": 5}
    assert {table["state"] for table in tables.values()} == {"done"}
    assert listwise("status", "--json", "--watch", str(tmp_path / "run")).returncode == 2


def test_status_of_a_run_whose_driver_is_gone_says_so_and_what_to_do(tmp_path: Path) -> None:
    storage = complete_workdir(tmp_path / "run")
    table = Table.open(storage, "records")
    storage.remove(commit_path("records", "00001", table.plan.id))
    commits = Table.open(storage, "records").commits()
    worker = WorkerState("w0", "host/abc", True, [("00001", 3.0)])
    done, totals = shard_bits(table.plan.shards, {"00000"}), Totals.of(commits)
    driver = (machine_id(), 1, -1.0)
    # 575 s, and up to a minute more until the command has started, are shown as 10 min
    beat = Heartbeat("running", "", time.time() - 575, driver, table.plan.id, 9.0, 2, 200, totals, done,
                     11.0, 0.0, 1, [], 0, [worker], None)  # fmt: skip
    for owner, words in (
        (driver, r"records: its driver is gone, last heartbeat 10 min ago; listwise run continues it"),
        (this_driver(), r"records: running, last heartbeat 10 min ago\n  1/2 shards · 1 running · 11 rows/s"),
    ):
        storage.put(heartbeat_path("records"), replace(beat, driver=owner).to_bytes())
        shown = listwise("status", str(tmp_path / "run"))
        assert shown.returncode == 0, shown.stderr
        assert re.search(words, shown.stdout), shown.stdout


def test_lists_are_exported_once_and_only_when_they_are_finished(tmp_path: Path) -> None:
    workdir, file = tmp_path / "run", tmp_path / "lists.jsonl"
    storage = complete_workdir(workdir)
    for table in ("lists", "passages"):
        storage.delete(table)
    assert_refused(
        listwise("lists", str(workdir), "--export", str(file)), "table `lists` does not exist", "--until lists"
    )
    write_run(workdir)
    done = listwise("lists", str(workdir), "--export", str(file))
    assert done.returncode == 0, done.stderr
    assert "Wrote 100 lists to" in done.stdout
    assert len(file.read_text().splitlines()) == 100
    assert_refused(listwise("lists", str(workdir), "--export", str(file)), "exists already and is not replaced")
    table = Table.open(storage, "passages")
    storage.remove(commit_path("passages", "00000", table.plan.id))
    other = str(tmp_path / "other.jsonl")
    assert_refused(listwise("lists", str(workdir), "--export", other), "table `passages` does not exist yet or is not")


def test_report_names_the_page_it_wrote(tmp_path: Path) -> None:
    complete_workdir(tmp_path / "run")
    done = listwise("report", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_text().startswith("<!doctype html>")


def test_doctor_finds_every_package_of_the_known_good_set() -> None:
    done = listwise("doctor")
    assert "packages" in done.stdout
    assert "not installed:" not in done.stdout
    assert "Traceback" not in done.stderr
    assert done.returncode == (1 if "✗" in done.stdout else 0)


def test_plan_counts_the_corpus_and_writes_nothing(tmp_path: Path, hundred: Path, tiny_encoder: str) -> None:
    changes = [
        f"corpus.path={hundred}",
        f"workdir={tmp_path}/run",
        f"student.model={tiny_encoder}",
        "retrieval.depth=50",
    ]
    done = listwise("plan", "laptop", *(word for change in changes for word in ("--set", change)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("100 records")
    assert "the student's tokenizer" in done.stdout
    for stage in ("corpus", "queries", "embeddings", "candidates", "scores", "lists", "training"):
        assert f"\n{stage} " in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"model": "{absent}"}, ["'{absent}'", "no such folder"]),
        ({"dataset": "{absent}"}, ["{absent}", "Expected a BEIR folder"]),
        ({"split": "train"}, ["train.tsv", "There are the splits test"]),
        ({"output": "/dev/null/out"}, ["/dev/null is a file"]),
    ],
    ids=["model", "dataset", "split", "output"],
)
def test_evaluate_names_what_it_cannot_use_and_writes_nothing(
    wrong: dict[str, str], words: list[str], hundred: Path, tiny_encoder: str, tmp_path: Path
) -> None:
    absent = tmp_path / "absent"
    options = {"model": tiny_encoder, "dataset": str(hundred), "split": "test", "output": f"{tmp_path}/out"} | wrong
    done = listwise("evaluate", *(word.format(absent=absent) for key in options for word in (f"--{key}", options[key])))
    assert_refused(done, *(word.format(absent=absent) for word in words))
    assert list(tmp_path.iterdir()) == []


def test_evaluate_takes_prompts_and_pooling(
    tmp_path: Path,
    hundred: Path,
    tiny_encoder: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = CommandHere(monkeypatch, capsys)

    def judged(*words: str) -> str:
        options = ("--model", tiny_encoder, "--dataset", str(hundred), "--output", str(tmp_path / "out"), *words)
        done = command("evaluate", *options)
        assert done.returncode == 0, done.stderr
        return (tmp_path / "out" / "run.trec").read_text()

    plain = judged("--query-prompt", "", "--pooling", "auto")
    assert judged("--query-prompt", "a mill at the river: ", "--passage-prompt", "a ") != plain
    assert judged("--pooling", "cls") != plain
    refused = command(
        "evaluate", "--model", tiny_encoder, "--dataset", str(hundred), "--output", "x", "--pooling", "no"
    )
    assert refused.returncode == 2
    assert "pooling" in refused.stderr
