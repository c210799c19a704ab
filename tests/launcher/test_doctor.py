"""Doctor finds the faults of a node before a run and names a remedy for each. The faults are real ones."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cluster.machines.hub import hub_problem
from launcher.doctor import workdir
from launcher.doctor.collectives import Rendezvous, open_store, time_all_reduce
from launcher.doctor.finding import Finding, merge_equal, print_table
from launcher.doctor.node import PACKAGES, versions
from launcher.doctor.nodes import check_recipe_here, clock_finding, collectives_findings, compare_versions
from launcher.environment import cores
from launcher.recipe_file import load_recipe
from tests.chaos.harness import ROOT
from tests.chaos.test_clock import set_clock
from tests.launcher.faulty import FaultyNodes
from tests.pipeline import listwise, recipe_text

AHEAD_S = 5
FILES = 2000


def may_mount() -> bool:
    """Whether this process may mount file systems."""
    code = "from tests.launcher.faulty import cover; import tempfile; cover(tempfile.mkdtemp())"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory, hundred: Path, tiny_encoder: str) -> Iterator[list[Finding]]:
    """Doctor's findings about a cluster whose second node has other code, a clock that is ahead, a low limit of open
    files, and an empty folder in place of the one that holds the workdir and a teacher."""
    if not may_mount():
        pytest.skip("NOT TRIED: a node that sees another workdir needs the right to mount (root)")
    if not (compiler := shutil.which("cc")):
        pytest.skip("NOT TRIED: a node whose clock is ahead needs a C compiler (cc)")
    folder = tmp_path_factory.mktemp("doctor")
    source = str(ROOT / "tests" / "chaos" / "clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", folder / "clock.so", source, "-ldl"], check=True)
    set_clock(folder / "clock", AHEAD_S)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / "other" / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "other/distill/settings/lists.py").open("a") as module:
        module.write("# another commit\n")
    shared = folder / "shared"
    shutil.copytree(tiny_encoder, shared / "teacher")
    (folder / "recipe.yaml").write_text(recipe_text(hundred, tiny_encoder, shared / "run"))
    environment = {
        "PYTHONPATH": str(folder / "other"),
        "LD_PRELOAD": str(folder / "clock.so"),
        "CHAOS_CLOCK": str(folder / "clock"),
    }
    with FaultyNodes() as nodes:
        nodes.add(hide=str(shared), files=FILES, environment=environment)
        words = ["doctor", "recipe.yaml", "--address", nodes.address, "--json"]
        words += ["--set", f"teachers.second={{kind: cross_encoder, model: {shared}/teacher}}"]
        done = listwise(*words, cwd=folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    output = json.loads(done.stdout)
    assert output["sound"] is False
    assert sorted(path.name for path in shared.iterdir()) == ["teacher"], "doctor leaves nothing behind"
    yield [Finding(**fields) for fields in output["findings"]]


def only(findings: list[Finding], what: str, level: str) -> Finding:
    """The only finding about a thing at a level."""
    (finding,) = [finding for finding in findings if finding.what == what and finding.level == level]
    return finding


@pytest.fixture(scope="module")
def second(findings: list[Finding]) -> str:
    """Name of the node with the faults."""
    return only(findings, "open files", "warning").node


@pytest.mark.cluster
def test_every_node_is_examined_and_two_that_share_an_address_are_told_apart(findings: list[Finding]) -> None:
    nodes = {finding.node for finding in findings if finding.what == "memory"}
    assert len(nodes) == 3
    assert sum(bool(re.fullmatch(r"[\d.]+/[0-9a-f]{6}", node)) for node in nodes) == 2
    assert [finding for finding in findings if finding.what == "node"] == [], "every node has answered"


@pytest.mark.cluster
def test_a_low_limit_of_open_files_is_a_finding_about_its_node(findings: list[Finding], second: str) -> None:
    assert only(findings, "open files", "warning").found == f"{FILES} at once"
    assert {finding.node for finding in findings if finding.what == "open files" and finding.level == "ok"} != {second}


@pytest.mark.cluster
def test_other_code_on_a_node_is_found_though_the_version_is_the_same(findings: list[Finding], second: str) -> None:
    finding = only(findings, "versions", "failure")
    assert finding.node == second
    own = versions()["listwise"]
    assert own in finding.remedy
    assert re.fullmatch(r"other code: listwise (\S+)\+\w{8}, not \1\+\w{8}", finding.found), finding.found


@pytest.mark.cluster
def test_a_clock_that_is_ahead_is_measured_over_round_trips(findings: list[Finding], second: str) -> None:
    finding = only(findings, "clock", "warning")
    assert finding.node == second
    ahead, uncertain = map(float, re.findall(r"[+-]?\d+\.\d+", finding.found))
    assert abs(ahead - AHEAD_S) <= uncertain + 0.01
    assert uncertain < 0.5
    assert "NTP" in finding.remedy


@pytest.mark.cluster
def test_a_node_that_sees_another_workdir_is_named(findings: list[Finding], second: str) -> None:
    finding = only(findings, "workdir", "failure")
    assert finding.node == second
    assert "there is no folder" in finding.found
    assert "all nodes share" in finding.remedy
    (good,) = [
        finding
        for finding in findings
        if finding.what == "workdir" and "the same folder as this machine" in finding.found
    ]
    assert good.node not in (second, "this machine")


@pytest.mark.cluster
def test_a_model_that_one_node_lacks_is_named_with_its_field(findings: list[Finding], second: str) -> None:
    finding = only(findings, "model", "failure")
    assert finding.node == second
    assert finding.found.startswith("teachers.second.model: ")


@pytest.mark.cluster
def test_the_all_reduce_between_nodes_is_measured_in_its_unit(findings: list[Finding]) -> None:
    finding = only(findings, "collectives", "ok")
    measured = re.search(
        r"8 MiB over 2 nodes: (\S+) GiB/s; of 4 bytes: (\S+) ms \(gloo, rank 0 at \S+:\d+", finding.found
    )
    assert measured, finding.found
    assert 0.001 < float(measured[1]) < 100
    assert 0.001 < float(measured[2]) < 1000


@pytest.mark.cluster
def test_the_table_can_be_read_on_80_columns(findings: list[Finding]) -> None:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_table([*findings, Finding("ok", "name", "[bold]\x1b[2J" + "x" * 100)], console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    assert "[bold]\\x1b[2J" in text
    assert "\x1b" not in text
    assert "→" in text
    assert len(text.splitlines()) < 200


def test_findings_that_read_the_same_are_one_line() -> None:
    finding = Finding("ok", "python", "3.11.9", node="a")
    merged = merge_equal([finding, replace(finding, node="b"), replace(finding, found="3.12.1", node="c")])
    assert [(finding.found, finding.node) for finding in merged] == [("3.11.9", "2 nodes"), ("3.12.1", "c")]


def test_a_version_that_differs_is_a_finding_about_the_minority() -> None:
    usual = versions()
    nodes = {"a": usual, "b": usual, "c": usual | {"torch": "2.0.0", "vllm": "0.1"}}
    levels = {finding.found.split()[2]: (finding.level, finding.node) for finding in compare_versions(nodes)}
    assert levels == {"torch": ("failure", "c"), "vllm": ("warning", "c")}
    assert [finding.level for finding in compare_versions({"a": usual, "b": usual})] == ["ok"]


def test_the_level_of_a_clock_finding_allows_for_the_uncertainty_of_the_measurement() -> None:
    assert clock_finding(1.4, "a", 0.5).level == "ok"
    assert clock_finding(-1.4, "a", 0.1).level == "warning"
    assert clock_finding(-31.0, "a", 0.1).level == "failure"


def test_a_rank_that_no_other_rank_joins_ends_in_time_and_both_nodes_are_named() -> None:
    store, port = open_store("127.0.0.1")
    rendezvous = Rendezvous("127.0.0.1", port, 2, "gloo", 2.0)
    start = time.monotonic()
    times = time_all_reduce(rendezvous, 0)
    assert time.monotonic() - start < 20
    assert times.error
    del store
    first, other = collectives_findings(rendezvous, ["a", "b"], {"a": times})
    assert (first.level, first.node, other.node) == ("failure", "a", "b")
    assert re.search(rf"127\.0\.0\.1:{port}, interface \w+ [\d.]+: ", first.found), first.found
    assert "did not answer" in other.found
    assert "GLOO_SOCKET_IFNAME" in other.remedy


def test_a_hub_that_does_not_answer_costs_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        start = time.monotonic()
        assert "does not answer" in hub_problem.__wrapped__()
        assert time.monotonic() - start < 4


def test_a_recipe_without_a_cluster_is_checked_on_this_machine(
    tmp_path: Path, hundred: Path, tiny_encoder: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe_text(hundred, tiny_encoder, tmp_path / "new" / "run"))
    source = str(tmp_path / "recipe.yaml")
    good = list(check_recipe_here(load_recipe(source)))
    assert {finding.level for finding in good} == {"ok"}, good
    assert "nothing to measure" in only(good, "collectives", "ok").found
    held = only(good, "cores held", "ok").found
    assert f"lists: 1 × 1; queries: 1 × 1; embeddings (student): {cores()} × 1;" in held, (
        "one a core, unless it is said"
    )
    assert held.endswith("training: 2 × 0.5")
    alone = ["training.ranks=null", "training.cpus_per_rank=null"]
    assert only(list(check_recipe_here(load_recipe(source, alone))), "cores held", "ok").found.endswith(
        f"training: 1 × {cores()}"
    ), "one rank with all cores"
    assert not (tmp_path / "new").exists(), "a workdir that is only checked is not created"
    changes = ["corpus.path=/no/corpus", "teachers.x={kind: cross_encoder, model: no-one/has-this}",
               f"workdir={source}/run", "training.trackers=[mlflow]", "evaluation.split=train"]  # fmt: skip
    bad = list(check_recipe_here(load_recipe(source, changes)))
    for what, words in (
        ("file", "corpus.path: there is no /no/corpus"),
        ("model", "no-one/has-this is not in the cache, and the hub is off"),
        ("workdir", "cannot be used as a folder"),
        ("trackers", "training.trackers names mlflow"),
        ("judged queries", "There are the splits test"),
    ):
        finding = only(bad, what, "failure")
        assert words in finding.found
        assert finding.remedy


def test_no_answer_is_written_into_another_folder_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with workdir.open_probe(str(tmp_path / "run")) as probe:
        problem = workdir.answer_probe(str(tmp_path / "other"), probe.name, probe.next_answer_name(), waits_s=(0.01,))
        assert "sees another folder of this name" in problem
        answer = probe.next_answer_name()
        assert workdir.answer_probe(str(tmp_path / "run"), probe.name, answer, waits_s=()) == ""
        assert workdir.has_answer(probe.storage, answer, waits_s=())
    assert list((tmp_path / "other").iterdir()) == []
    assert not (tmp_path / "run").exists()


def test_a_cluster_that_is_not_there_is_bad_input() -> None:
    done = listwise("doctor", "--address", "127.0.0.1:9")
    assert done.returncode == 2, done.stdout
    assert "no Ray cluster answers at '127.0.0.1:9'" in done.stderr
    assert "Traceback" not in done.stderr
