"""Jobs on a real SLURM of two nodes: the generated scripts, with real Ray, real signals and a real network failure."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cluster.tables.storage import Storage
from cluster.watch.status import status
from launcher.recipe_file import load_recipe
from launcher.slurm.job import training_alone, whole_run
from launcher.slurm.request import Request
from tests.distill.list_tables import write_run
from tests.pipeline import LISTWISE, recipe_text
from tests.slurm.cluster import Slurm, until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(240)]

BOTH = Request(nodes=2, gpus_per_node=0, time="10", cpus_per_node=1)
ONE = replace(BOTH, nodes=1)
# enough shards that a test can stop the run before its end
LONG: dict[str, dict] = {
    "corpus": {"path": "pydocs://numpy", "max_sources": 300, "rows_per_shard": 2000},
    "evaluation": {"dataset": None},
}


Inputs = tuple[Path, str]


@pytest.fixture
def inputs(hundred: Path, tiny_encoder: str) -> Inputs:
    return hundred, tiny_encoder


class SubmittedJob:
    """A job that runs a recipe, in a folder of its own."""

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
        self.disk = Path(tempfile.mkdtemp(prefix="lw-test-", dir="/tmp"))  # short, for the sockets of Ray

    def submit(self, *options: str) -> SubmittedJob:
        job = whole_run(str(self.recipe), load_recipe(str(self.recipe)), [], "queries", self.request)
        script = self.folder / "my job.sbatch"
        script.write_text(job.script.replace("local_disk=/tmp ", f"local_disk={self.disk} "))
        self.number = self.slurm.sbatch(script, f"--chdir={self.folder}", *options)
        return self

    def commits(self) -> dict[str, int]:
        """The commit records of the queries: name → time of the last write."""
        return {file.name: file.stat().st_mtime_ns for file in self.workdir.glob("queries/commits/*.json")}

    def shards(self) -> int:
        return len(json.loads((self.workdir / "queries" / "plan.json").read_text())["shards"])

    def log(self) -> str:
        file = self.folder / f"listwise-{self.number}.log"
        return file.read_text() if file.exists() else ""

    def wait_for_first_commit(self) -> None:
        until(self.commits, "the first queries", 240)

    def nodes_with_commits(self) -> set[str]:
        """The nodes that have made shards of the queries."""
        records = self.workdir.glob("queries/commits/*.json")
        return {json.loads(file.read_text())["node"].partition("/")[0] for file in records}

    def assert_complete(self) -> None:
        """Checks that every planned unit of every table is once a row, a counted drop or a reject."""
        tables = status(Storage(str(self.workdir)))
        assert {table["table"] for table in tables} == {"checks/student", "records", "passages", "queries"}
        for table in tables:
            assert table["shards_done"] == table["shards"] > 0
            assert table["rows"] + sum(table["drops"].values()) + table["rejects"] == table["units"]

    def assert_nothing_is_left(self) -> None:
        for node in ("node1", "node2"):
            until(
                lambda node=node: not self.slurm.processes(node),
                f"no process on {node}; {self.slurm.processes(node)}",
                30,
            )
        assert list(self.disk.iterdir()) == []
        assert not list(self.folder.glob(".listwise-job-*/token"))


def test_a_run_uses_both_nodes_and_its_status_is_the_jobs_though_names_have_spaces_and_quotes(
    slurm: Slurm, tmp_path: Path, inputs: Inputs
) -> None:
    # The run is long enough for both nodes, because a worker on one may be ready seconds before that on the other.
    job = SubmittedJob(slurm, tmp_path / 'a "quoted" dir\'s', inputs, replace(BOTH, name='it\'s "a" \\ name'), **LONG)
    job.submit("--hold")
    prepared = job.disk / f"lw-{job.number}.0-head-0"  # as an attacker would who knows the number of the job
    prepared.mkdir(mode=0o777)
    (prepared / "ray_current_cluster").write_text("10.77.0.254:6379")
    slurm.call("scontrol", "release", job.number)
    job.wait_for_first_commit()
    secrets = [*job.folder.glob(".listwise-job-*"), *(one for one in job.disk.iterdir() if one != prepared)]
    assert len(secrets) == 3, "the job's folder, with token and address, and one of Ray's for each node"
    assert {one.stat().st_mode & 0o777 for one in secrets} == {0o700}
    ended = slurm.finished(job.number)
    shutil.rmtree(prepared)
    assert ended["ExitCode"] == "0:0", job.log()
    assert 'JobName=it\'s "a" \\ name ' in slurm.call("scontrol", "show", "job", "-o", job.number).stdout
    job.assert_complete()
    assert job.nodes_with_commits() == {"node1", "node2"}
    assert "Done up to queries" in job.log()
    job.assert_nothing_is_left()
    assert list(job.folder.glob(".listwise-job-*")) == [], "a successful job leaves no folder"


def test_jobs_that_share_a_node_do_not_disturb_each_other_and_each_has_its_own_exit_status(
    slurm: Slurm, tmp_path: Path, inputs: Inputs
) -> None:
    good = [
        SubmittedJob(slurm, tmp_path / name, inputs, ONE, generation={"pool": {"workers": 1}})
        for name in ("one", "two")
    ]
    bad = SubmittedJob(slurm, tmp_path / "bad", inputs, ONE, evaluation={"dataset": str(tmp_path / "absent")})
    failing = SubmittedJob(slurm, tmp_path / "failing", inputs, ONE)
    failing.workdir.mkdir()
    (failing.workdir / "versions.json").write_text("{}")
    (failing.workdir / "records").write_text("a file where the table's folder should be")
    jobs = [job.submit("--nodelist=node1") for job in (*good, bad, failing)]
    ended = [slurm.finished(job.number) for job in jobs]
    logs = "\n".join(job.log() for job in jobs)
    assert [record["ExitCode"] for record in ended] == ["0:0", "0:0", "2:0", "1:0"], logs
    assert {record["NodeList"] for record in ended} == {"node1"}
    starts, ends = ([slurm.job(job.number)[when] for job in good] for when in ("StartTime", "EndTime"))
    assert max(starts) < min(ends), "the two ran at the same time"
    for job in good:
        job.assert_complete()
    assert f"evaluation.dataset: there is no folder {tmp_path / 'absent'}" in bad.log()
    assert "error: the storage" in failing.log()
    for job in jobs:
        job.assert_nothing_is_left()


def test_on_slurms_signal_the_job_is_requeued_and_no_finished_shard_is_done_again(
    slurm: Slurm, tmp_path: Path, inputs: Inputs
) -> None:
    job = SubmittedJob(slurm, tmp_path, inputs, **LONG).submit()
    job.wait_for_first_commit()
    slurm.call("scancel", "--batch", "--signal=USR1", job.number)  # what --signal=B:USR1@… sends
    until(lambda: slurm.job(job.number)["Restarts"] == "1", "the job to be requeued")
    before = job.commits()
    assert 0 < len(before) < job.shards(), "it was stopped before its end"
    assert not list(job.disk.iterdir()), "Ray was stopped properly"
    ended = slurm.finished(job.number)
    assert ended["ExitCode"] == "0:0", job.log()
    assert "attempt 1 on" in job.log() and "attempt 2 on" in job.log(), "one log for both"
    job.assert_complete()
    after = job.commits()
    assert len(after) == job.shards()
    assert after.items() >= before.items(), "a finished shard was done again"


def test_a_cancelled_job_leaves_no_process_on_either_node(slurm: Slurm, tmp_path: Path, inputs: Inputs) -> None:
    job = SubmittedJob(slurm, tmp_path, inputs, **LONG).submit()
    job.wait_for_first_commit()
    assert any("raylet" in process for process in slurm.processes("node2"))
    slurm.call("scancel", job.number)
    until(lambda: slurm.job(job.number)["JobState"] == "CANCELLED", "the job to be cancelled")
    job.assert_nothing_is_left()


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


def test_when_slurm_refuses_a_job_its_reason_is_shown(slurm: Slurm, tmp_path: Path, inputs: Inputs) -> None:
    job = SubmittedJob(slurm, tmp_path, inputs)
    command = ["slurm", str(job.recipe), "--nodes", "2", "--gpus-per-node", "0", "--time", "60", "--submit"]
    refused = slurm.call(LISTWISE, *command, "--partition", "absent", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "error: SLURM refuses the job: " in refused.stderr
    assert "invalid partition" in refused.stderr
    accepted = slurm.call(LISTWISE, *command, "--cpus-per-node", "1", "--sbatch=--hold", cwd=tmp_path)
    number = accepted.stdout.split()[2].rstrip(".")
    assert slurm.job(number)["JobState"] == "PENDING"
    slurm.call("scancel", number)


def test_a_node_that_is_cut_off_does_not_end_the_run(slurm: Slurm, tmp_path: Path, inputs: Inputs) -> None:
    """This test must be the last one, because node2 stays cut off."""
    # By default Ray notices a dead node after 65 s; with these variables after 12 s.
    fast = "RAY_health_check_period_ms=1000,RAY_health_check_timeout_ms=3000,RAY_health_check_failure_threshold=3"
    job = SubmittedJob(slurm, tmp_path, inputs, **LONG).submit(f"--export=ALL,{fast}")
    try:
        until(lambda: job.commits() and job.nodes_with_commits() == {"node1", "node2"}, "work on both nodes", 150)
        slurm.unplug("node2")
        before = len(job.commits())
        assert before < job.shards()
        ended = slurm.finished(job.number, 180)
        assert ended["ExitCode"] == "0:0", job.log()
        job.assert_complete()
    finally:
        shutil.rmtree(job.disk)  # node2 could not be told to remove its folder
