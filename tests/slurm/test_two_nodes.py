"""Jobs on a real SLURM of two nodes: the generated scripts, real Ray, real signals, a real cut of the network."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cluster.tables.storage import Storage
from cluster.watch.status import status
from launcher.recipe import load_recipe
from launcher.slurm.job import training_alone, whole_run
from launcher.slurm.request import Request
from tests.distill.list_tables import write_run
from tests.pipeline import LISTWISE, recipe_text
from tests.slurm.cluster import Slurm, until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(240)]

BOTH = Request(nodes=2, gpus_per_node=0, time="10", cpus_per_node=1)
ONE = replace(BOTH, nodes=1)
# so many shards that there is time to end it on the way
LONG: dict[str, dict] = {
    "corpus": {"path": "pydocs://numpy", "max_sources": 300, "rows_per_shard": 2000},
    "evaluation": {"dataset": None},
}


Inputs = tuple[Path, str]


@pytest.fixture
def inputs(hundred: Path, tiny_encoder: str) -> Inputs:
    return hundred, tiny_encoder


class Sent:
    """A job of a recipe in a folder of its own."""

    def __init__(self, slurm: Slurm, folder: Path, inputs: Inputs, request: Request = BOTH, **sections: dict) -> None:
        self.slurm, self.folder = slurm, folder
        self.workdir = folder / 'the "run\'s" dir'
        folder.mkdir(parents=True, exist_ok=True)
        recipe = yaml.safe_load(recipe_text(*inputs, self.workdir))
        recipe["retrieval"]["retrievers"] = {"bm25": {"kind": "bm25"}}
        recipe["teachers"] = {"bm25": {"kind": "bm25"}}
        recipe["generation"] |= {"pool": {"workers": 2}, "rows_per_shard": 1}
        for name, fields in sections.items():
            recipe[name] |= fields
        self.recipe = folder / "my recipe's.yaml"
        self.recipe.write_text(yaml.safe_dump(recipe))
        self.request = request
        self.number = ""

    def send(self, *options: str) -> Sent:
        job = whole_run(str(self.recipe), load_recipe(str(self.recipe)), [], "queries", self.request)
        script = self.folder / "my job.sbatch"
        script.write_text(job.script)
        self.number = self.slurm.sbatch(script, f"--chdir={self.folder}", *options)
        return self

    def commits(self) -> dict[str, int]:
        """Commit records of the queries, and when they were written."""
        return {file.name: file.stat().st_mtime_ns for file in self.workdir.glob("queries/commits/*.json")}

    def shards(self) -> int:
        return len(json.loads((self.workdir / "queries" / "plan.json").read_text())["shards"])

    def log(self) -> str:
        file = self.folder / f"listwise-{self.number}.log"
        return file.read_text() if file.exists() else ""

    def until_at_work(self) -> None:
        until(self.commits, "the first queries", 90)

    def nodes_at_work(self) -> set[str]:
        """Where shards of the queries were done."""
        records = self.workdir.glob("queries/commits/*.json")
        return {json.loads(file.read_text())["node"].partition("/")[0] for file in records}

    def assert_complete(self) -> None:
        """Every planned unit of every table is a row, a counted drop or a reject, once."""
        tables = status(Storage(str(self.workdir)))
        assert {table["table"] for table in tables} == {"records", "passages", "queries"}
        for table in tables:
            assert table["shards_done"] == table["shards"] > 0
            assert table["rows"] + sum(table["drops"].values()) + table["rejects"] == table["units"]

    def assert_nothing_is_left(self) -> None:
        for node in ("node1", "node2"):
            until(
                lambda node=node: not self.slurm.processes(node), f"{node} to be left; {self.slurm.processes(node)}", 30
            )
        assert list(Path("/tmp").glob(f"lw-{self.number}.*")) == []
        assert not list(self.folder.glob(".listwise-job-*/token"))


def test_a_run_uses_both_nodes_and_its_status_is_the_jobs_though_names_have_spaces_and_quotes(
    slurm: Slurm, tmp_path: Path, inputs: Inputs
) -> None:
    # long enough for both nodes: a worker on one may be ready seconds before that on the other
    sent = Sent(slurm, tmp_path / 'a "quoted" dir\'s', inputs, replace(BOTH, name='it\'s "a" \\ name'), **LONG)
    sent.send()
    ended = slurm.finished(sent.number)
    assert ended["ExitCode"] == "0:0", sent.log()
    assert 'JobName=it\'s "a" \\ name ' in slurm.call("scontrol", "show", "job", "-o", sent.number).stdout
    sent.assert_complete()
    assert sent.nodes_at_work() == {"node1", "node2"}
    assert "Done up to queries" in sent.log()
    sent.assert_nothing_is_left()
    assert list(sent.folder.glob(".listwise-job-*")) == [], "a job that went well leaves no folder"


def test_jobs_that_share_a_node_do_not_meet_and_each_has_its_own_exit_status(
    slurm: Slurm, tmp_path: Path, inputs: Inputs
) -> None:
    here = ["--nodelist=node1"]
    good = [Sent(slurm, tmp_path / name, inputs, ONE, generation={"pool": {"workers": 1}}) for name in ("one", "two")]
    bad = Sent(slurm, tmp_path / "bad", inputs, ONE, evaluation={"dataset": str(tmp_path / "absent")})
    failing = Sent(slurm, tmp_path / "failing", inputs, ONE)
    failing.workdir.mkdir()
    (failing.workdir / "versions.json").write_text("{}")
    (failing.workdir / "records").write_text("a file where the table's folder should be")
    sent = [one.send(*here) for one in (*good, bad, failing)]
    ended = [slurm.finished(one.number) for one in sent]
    logs = "\n".join(one.log() for one in sent)
    assert [one["ExitCode"] for one in ended] == ["0:0", "0:0", "2:0", "1:0"], logs
    assert {one["NodeList"] for one in ended} == {"node1"}
    starts, ends = ([slurm.job(one.number)[when] for one in good] for when in ("StartTime", "EndTime"))
    assert max(starts) < min(ends), "the two ran at the same time"
    for one in good:
        one.assert_complete()
    assert f"evaluation.dataset: there is no folder {tmp_path / 'absent'}" in bad.log()
    assert "error: the storage" in failing.log()
    for one in sent:
        one.assert_nothing_is_left()


def test_on_slurms_signal_the_job_comes_back_and_no_finished_shard_is_done_again(
    slurm: Slurm, tmp_path: Path, inputs: Inputs
) -> None:
    sent = Sent(slurm, tmp_path, inputs, **LONG).send()
    sent.until_at_work()
    slurm.call("scancel", "--batch", "--signal=USR1", sent.number)  # what --signal=B:USR1@… sends
    until(lambda: slurm.job(sent.number)["Restarts"] == "1", "the job to come back")
    before = sent.commits()
    assert 0 < len(before) < sent.shards(), "it was stopped on the way"
    assert not list(Path("/tmp").glob(f"lw-{sent.number}.*")), "Ray was ended in order"
    ended = slurm.finished(sent.number)
    assert ended["ExitCode"] == "0:0", sent.log()
    assert "attempt 1 on" in sent.log() and "attempt 2 on" in sent.log(), "one log for both"
    sent.assert_complete()
    after = sent.commits()
    assert len(after) == sent.shards()
    assert after.items() >= before.items(), "a finished shard was done again"


def test_a_cancelled_job_leaves_no_process_on_either_node(slurm: Slurm, tmp_path: Path, inputs: Inputs) -> None:
    sent = Sent(slurm, tmp_path, inputs, **LONG).send()
    sent.until_at_work()
    assert any("raylet" in process for process in slurm.processes("node2"))
    slurm.call("scancel", sent.number)
    until(lambda: slurm.job(sent.number)["JobState"] == "CANCELLED", "the job to be cancelled")
    sent.assert_nothing_is_left()


def test_training_alone_runs_a_rank_on_each_node_and_on_slurms_signal_continues_from_its_checkpoint(
    slurm: Slurm, tmp_path: Path, inputs: Inputs
) -> None:
    workdir = tmp_path / "a run's dir"
    metrics = workdir / "training" / "metrics.jsonl"
    write_run(workdir)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_text(*inputs, workdir))
    longer = [f"training.{name}=60" for name in ("max_steps", "epochs", "evaluate_every")]
    script = tmp_path / "train.sbatch"
    script.write_text(training_alone(load_recipe(str(recipe), longer), BOTH).script)
    number = slurm.sbatch(script, f"--chdir={tmp_path}")
    until(lambda: metrics.is_file() and '"loss"' in metrics.read_text(), "the first step", 120)
    slurm.call("scancel", "--batch", "--signal=USR1", number)
    ended = slurm.finished(number, 200)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 61)), "no step was lost or done twice"
    assert slurm.job(number)["Restarts"] == "1"
    assert ended["ExitCode"] == "0:0", slurm.step_logs(tmp_path)
    assert "2 ranks on node[1-2]" in slurm.step_logs(tmp_path)
    assert (workdir / "model" / "model.safetensors").exists()
    assert "| world size | 2 |" in (workdir / "model" / "README.md").read_text()
    assert not list(tmp_path.glob(".listwise-job-*"))


def test_slurms_own_words_are_passed_on_when_it_refuses_a_job(slurm: Slurm, tmp_path: Path, inputs: Inputs) -> None:
    sent = Sent(slurm, tmp_path, inputs)
    asked = ["slurm", str(sent.recipe), "--nodes", "2", "--gpus-per-node", "0", "--time", "60", "--submit"]
    refused = slurm.call(LISTWISE, *asked, "--partition", "absent", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "error: SLURM does not take the job: " in refused.stderr
    assert "invalid partition" in refused.stderr
    taken = slurm.call(LISTWISE, *asked, "--cpus-per-node", "1", "--sbatch=--hold", cwd=tmp_path)
    number = taken.stdout.split()[2].rstrip(".")
    assert slurm.job(number)["JobState"] == "PENDING"
    slurm.call("scancel", number)


def test_a_node_that_is_cut_off_does_not_end_the_run(slurm: Slurm, tmp_path: Path, inputs: Inputs) -> None:
    """The last one: node2 stays cut off."""
    # Ray misses a node after 65 s; here after 12
    soon = "RAY_health_check_period_ms=1000,RAY_health_check_timeout_ms=3000,RAY_health_check_failure_threshold=3"
    sent = Sent(slurm, tmp_path, inputs, **LONG).send(f"--export=ALL,{soon}")
    try:
        until(lambda: sent.commits() and sent.nodes_at_work() == {"node1", "node2"}, "work on both nodes")
        slurm.unplug("node2")
        before = len(sent.commits())
        assert before < sent.shards()
        ended = slurm.finished(sent.number, 180)
        assert ended["ExitCode"] == "0:0", sent.log()
        sent.assert_complete()
    finally:
        for left in Path("/tmp").glob(f"lw-{sent.number}.*"):  # of the node that nobody could tell to clean up
            shutil.rmtree(left)
