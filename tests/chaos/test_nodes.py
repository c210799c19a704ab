"""Faults of nodes: nodes join and die while a stage runs, the head dies, and impossible requests are refused."""

from __future__ import annotations

import random
import time

import psutil
import pytest

from cluster.tables.storage import Storage
from tests.chaos.driver import Spec
from tests.chaos.harness import (
    Driver,
    Nodes,
    assert_nothing_lost,
    in_work,
    kill_node,
    recovered,
    until,
)
from tests.chaos.ledger import note

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
ROWS = 400


def workers_of(node: list[int], pids: set[int]) -> set[int]:
    """Those of the processes `pids` that run on this node."""
    own = set()
    for pid in pids:
        if psutil.pid_exists(pid) and any(parent.pid in node for parent in psutil.Process(pid).parents()):
            own.add(pid)
    return own


def test_a_node_that_joins_is_used_and_one_that_is_killed_loses_nothing(
    dice: random.Random, marker: str, nodes: Nodes
) -> None:
    old = nodes.add(num_cpus=1)
    spec = Spec(marker.replace("marker", "run"), marker, nodes.address, rows=ROWS, rows_per_shard=4, seconds=0.4)
    with Driver(spec) as driver:
        until(driver.at_work, "the first shard")
        new = nodes.add(num_cpus=1)
        joined = until(lambda: workers_of(new, driver.pids()) or not driver.is_running(), "work on the new node")
        time.sleep(dice.uniform(0.0, 1.0))
        lost = in_work(spec, workers_of(old, driver.pids()))
        assert driver.is_running(), "the stage ended before the node could be killed"
        kill_node(old, with_workers=dice.random() < 0.5)
        seconds = until(lambda: recovered(spec, lost), "recovery")
        driver.hurry()
        driver.wait()
    assert_nothing_lost(Storage(spec.workdir), ROWS)
    note("node joins while a stage runs: until its workers work", joined)
    note("node killed", seconds)


def test_a_request_that_no_node_can_hold_is_refused_with_what_the_nodes_have(marker: str, nodes: Nodes) -> None:
    nodes.add(num_cpus=1, num_gpus=4)
    spec = Spec(marker.replace("marker", "run"), marker, nodes.address, pool={"gpus": 8})
    with Driver(spec) as driver:
        output = driver.wait(2)
    assert "wants 1 CPU, 8 GPU, and no node of the cluster has that" in output
    assert "has 1 CPU, 4 GPU" in output
    assert Storage(spec.workdir).list("") == []


def test_a_run_whose_head_is_killed_says_so_and_finishes_on_another_cluster(
    dice: random.Random, marker: str, nodes: Nodes
) -> None:
    nodes.add(num_cpus=1)
    spec = Spec(marker.replace("marker", "run"), marker, nodes.address, rows=ROWS, rows_per_shard=4, seconds=0.4)
    spec.cluster = {"head_timeout_s": 3.0}
    with Driver(spec) as driver:
        until(driver.at_work, "the first shard")
        time.sleep(dice.uniform(0.0, 2.0))
        nodes.note_processes()
        assert driver.is_running(), "the stage ended before the head could be killed"
        kill_node(nodes.head, with_workers=False)
        killed = time.monotonic()
        output = driver.wait(1)
        ended = time.monotonic() - killed
        assert "error: the head of the Ray cluster at" in output
        assert "the same command continues" in output
        assert "Traceback" not in output
        assert ended < 30
        spec.address = None
        driver.start()
        driver.hurry()
        until(driver.at_work, "work on the new cluster")
        seconds = time.monotonic() - killed
        driver.wait()
    assert_nothing_lost(Storage(spec.workdir), ROWS)
    note("head killed: until the run ended with a message", ended)
    note("head killed: until a rerun on a new cluster works", seconds)
