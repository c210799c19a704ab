"""What is wrong with a node is found before a run is, and told with what to do. The faults are real ones."""

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

from launcher.doctor import hub, workdir
from launcher.doctor.collectives import Meeting, measure, open_meeting
from launcher.doctor.finding import Finding, merged, print_table
from launcher.doctor.node import PACKAGES, versions
from launcher.doctor.nodes import clock_finding, compare, examine_here, judge
from launcher.recipe import load_recipe
from tests.chaos.harness import ROOT
from tests.chaos.test_clock import set_clock
from tests.launcher.faulty import FaultyNodes
from tests.pipeline import listwise, recipe_text

AHEAD_S = 5
FILES = 2000


def may_mount() -> bool:
    code = "from tests.launcher.faulty import cover; import tempfile; cover(tempfile.mkdtemp())"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, hundred: Path, tiny_encoder: str) -> Iterator[list[Finding]]:
    """What doctor says of a cluster whose second node has other code, a clock that is ahead, few open files, and
    another folder where the workdir and a teacher are."""
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
    with (folder / "other/distill/fusion.py").open("a") as module:
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
    said = json.loads(done.stdout)
    assert said["sound"] is False
    assert sorted(path.name for path in shared.iterdir()) == ["teacher"], "nothing is left behind"
    yield [Finding(**each) for each in said["findings"]]


def the(found: list[Finding], what: str, level: str) -> Finding:
    """The only finding of a thing at a level."""
    (one,) = [each for each in found if each.what == what and each.level == level]
    return one


@pytest.fixture(scope="module")
def second(found: list[Finding]) -> str:
    """Name of the node with the faults."""
    return the(found, "open files", "warning").node


@pytest.mark.cluster
def test_every_node_is_examined_and_two_that_share_an_address_are_told_apart(found: list[Finding]) -> None:
    nodes = {each.node for each in found if each.what == "memory"}
    assert len(nodes) == 3
    assert sum(bool(re.fullmatch(r"[\d.]+/[0-9a-f]{6}", node)) for node in nodes) == 2
    assert [each for each in found if each.what == "node"] == [], "each has answered"


@pytest.mark.cluster
def test_a_low_limit_of_open_files_is_told_of_its_node(found: list[Finding], second: str) -> None:
    assert the(found, "open files", "warning").found == f"{FILES} at once"
    assert {each.node for each in found if each.what == "open files" and each.level == "ok"} != {second}


@pytest.mark.cluster
def test_other_code_on_a_node_is_found_though_the_version_is_the_same(found: list[Finding], second: str) -> None:
    one = the(found, "versions", "failure")
    assert one.node == second
    own = versions()["listwise"]
    assert own in one.remedy
    assert re.fullmatch(r"other code: listwise (\S+)\+\w{8}, not \1\+\w{8}", one.found), one.found


@pytest.mark.cluster
def test_a_clock_that_is_ahead_is_measured_through_round_trips(found: list[Finding], second: str) -> None:
    one = the(found, "clock", "warning")
    assert one.node == second
    ahead, uncertain = map(float, re.findall(r"[+-]?\d+\.\d+", one.found))
    assert abs(ahead - AHEAD_S) <= uncertain + 0.01
    assert uncertain < 0.5
    assert "NTP" in one.remedy


@pytest.mark.cluster
def test_a_node_that_sees_another_workdir_is_named(found: list[Finding], second: str) -> None:
    one = the(found, "workdir", "failure")
    assert one.node == second
    assert "there is no folder" in one.found
    assert "all nodes share" in one.remedy
    (good,) = [each for each in found if each.what == "workdir" and "what this machine does" in each.found]
    assert good.node not in (second, "this machine")


@pytest.mark.cluster
def test_a_model_that_one_node_lacks_is_named_with_its_field(found: list[Finding], second: str) -> None:
    one = the(found, "model", "failure")
    assert one.node == second
    assert one.found.startswith("teachers.second.model: ")


@pytest.mark.cluster
def test_the_all_reduce_between_nodes_is_measured_in_its_unit(found: list[Finding]) -> None:
    one = the(found, "collectives", "ok")
    measured = re.search(r"8 MiB over 2 nodes: (\S+) GiB/s; of 4 bytes: (\S+) ms \(gloo, rank 0 at \S+:\d+", one.found)
    assert measured, one.found
    assert 0.001 < float(measured[1]) < 100
    assert 0.001 < float(measured[2]) < 1000


@pytest.mark.cluster
def test_the_table_can_be_read_on_80_columns(found: list[Finding]) -> None:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_table([*found, Finding("ok", "name", "[bold]\x1b[2J" + "x" * 100)], console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    assert "[bold]\\x1b[2J" in text
    assert "\x1b" not in text
    assert "→" in text
    assert len(text.splitlines()) < 200


def test_findings_that_read_the_same_are_one_line() -> None:
    one = Finding("ok", "python", "3.11.9", node="a")
    shown = merged([one, replace(one, node="b"), replace(one, found="3.12.1", node="c")])
    assert [(each.found, each.node) for each in shown] == [("3.11.9", "2 nodes"), ("3.12.1", "c")]


def test_versions_that_differ_are_told_of_the_minority() -> None:
    usual = versions()
    nodes = {"a": usual, "b": usual, "c": usual | {"torch": "2.0.0", "vllm": "0.1"}}
    levels = {each.found.split()[2]: (each.level, each.node) for each in compare(nodes)}
    assert levels == {"torch": ("failure", "c"), "vllm": ("warning", "c")}
    assert [each.level for each in compare({"a": usual, "b": usual})] == ["ok"]


def test_the_level_of_a_clock_counts_what_the_way_leaves_unknown() -> None:
    assert clock_finding(1.4, "a", 0.5).level == "ok"
    assert clock_finding(-1.4, "a", 0.1).level == "warning"
    assert clock_finding(-31.0, "a", 0.1).level == "failure"


def test_a_rank_that_nobody_meets_ends_in_time_and_both_are_named() -> None:
    store, port = open_meeting("127.0.0.1")
    meeting = Meeting("127.0.0.1", port, 2, "gloo", 2.0)
    begun = time.monotonic()
    alone = measure(meeting, 0)
    assert time.monotonic() - begun < 20
    assert alone.error
    del store
    first, other = judge(meeting, ["a", "b"], {"a": alone})
    assert (first.level, first.node, other.node) == ("failure", "a", "b")
    assert re.search(rf"127\.0\.0\.1:{port}, interface \w+ [\d.]+: ", first.found), first.found
    assert "did not answer" in other.found
    assert "GLOO_SOCKET_IFNAME" in other.remedy


def test_a_hub_that_does_not_answer_costs_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        begun = time.monotonic()
        assert "does not answer" in hub.refusal.__wrapped__()
        assert time.monotonic() - begun < 4


def test_a_recipe_without_a_cluster_is_tried_on_this_machine(tmp_path: Path, hundred: Path, tiny_encoder: str) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe_text(hundred, tiny_encoder, tmp_path / "new" / "run"))
    source = str(tmp_path / "recipe.yaml")
    good = list(examine_here(load_recipe(source)))
    assert {each.level for each in good} == {"ok"}, good
    assert "nothing to measure" in the(good, "collectives", "ok").found
    assert not (tmp_path / "new").exists(), "a workdir that is only tried does not come into being"
    changes = ["corpus.path=/no/corpus", "teachers.x={kind: cross_encoder, model: no-one/has-this}",
               f"workdir={source}/run", "training.trackers=[mlflow]", "evaluation.split=train"]  # fmt: skip
    bad = list(examine_here(load_recipe(source, changes)))
    for what, words in (
        ("file", "corpus.path: there is no /no/corpus"),
        ("model", "no-one/has-this is not in the cache, and the hub is off"),
        ("workdir", "cannot be used as a folder"),
        ("trackers", "training.trackers names mlflow"),
        ("judged queries", "There are the splits test"),
    ):
        one = the(bad, what, "failure")
        assert words in one.found
        assert one.remedy


def test_another_folder_of_the_same_name_gets_no_answer_written_into_it(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with workdir.probe(str(tmp_path / "run")) as made:
        wrong = workdir.answer(str(tmp_path / "other"), made.name, made.next_answer(), waits_s=(0.01,))
        assert "sees another folder of this name" in wrong
        own = made.next_answer()
        assert workdir.answer(str(tmp_path / "run"), made.name, own, waits_s=()) == ""
        assert workdir.arrived(made.storage, own, waits_s=())
    assert list((tmp_path / "other").iterdir()) == []
    assert not (tmp_path / "run").exists()


def test_a_cluster_that_is_not_there_is_bad_input() -> None:
    done = listwise("doctor", "--address", "127.0.0.1:9")
    assert done.returncode == 2, done.stdout
    assert "no Ray cluster answers at '127.0.0.1:9'" in done.stderr
    assert "Traceback" not in done.stderr
