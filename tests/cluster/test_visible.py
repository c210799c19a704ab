"""A running stage and a killed driver can be seen from outside: in files and at the metrics port of Ray."""

from __future__ import annotations

import re
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.watch.status import status
from tests.chaos.harness import Process, kill, until


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def scrape(port: int) -> dict[tuple[str, str], float]:
    """Values of our gauges by (name, labels), without the labels that Ray adds."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, OSError):
        return {}
    gauges = {}
    for name, labels, value in re.findall(r"^ray_(listwise_\w+)\{(.*)\} (\S+)$", text, re.M):
        own = re.findall(r'\b(table|state|quantile|worker|node)="([^"]*)"', labels)
        gauges[name, " ".join(f"{key}={text}" for key, text in sorted(own) if key != "table")] = float(value)
    return gauges


@pytest.mark.slow
def test_a_running_stage_is_seen_in_files_and_metrics_and_a_killed_driver_is_called_gone(tmp_path: Path) -> None:
    port, workdir = free_port(), str(tmp_path / "run")
    command = ("tests.cluster.visible", workdir, str(port))
    environment = {"RAY_metrics_report_interval_ms": "1000"}

    def table_status() -> dict[str, Any]:
        return next(iter(status(Storage(workdir))), {"state": "", "slow": [], "left_s": None})

    with Process(*command, errors=tmp_path / "stderr", environment=environment) as driver:
        records: list[dict[str, Any]] = []

        def all_at_work() -> bool:
            records.append(table_status())
            return bool(records[-1]["slow"] and records[-1]["left_s"] and records[-1]["running"] == 3)

        until(all_at_work, "a slow worker", 60.0)
        record = records[-1]
        assert record["state"] == "running"
        assert (record["running"], record["failed"], record["rejects"]) == (3, 0, 1)
        assert 0 < record["shards_done"] < record["shards"] == 2000
        # two workers do 10 shards a second, one does 2; loading and a busy machine make it less
        assert 10 < record["all_rows_per_s"] < 230
        assert record["all_tokens_per_s"] == pytest.approx(record["all_rows_per_s"], rel=0.1)
        (slow,) = record["slow"]
        assert slow["times"] >= 1.5
        low, middle, high = record["left_s"]
        assert 0 < low < middle < high < 1000
        gauges = until_scraped(port)
        assert gauges["listwise_shards", "state=planned"] == 2000
        assert gauges["listwise_shards", "state=running"] == 3
        assert 0 < gauges["listwise_shards", "state=done"] < 2000
        assert gauges["listwise_rejects", ""] == 1
        assert gauges["listwise_rows_per_second", ""] > 0
        assert gauges["listwise_tokens_per_second", ""] > 0
        assert gauges["listwise_seconds_left", "quantile=0.1"] < gauges["listwise_seconds_left", "quantile=0.9"]
        assert gauges["listwise_worker_slowness", f"node={slow['node']} worker={slow['worker']}"] > 1.2
        kill(driver.process.pid)
        driver.process.wait()
        record = table_status()
        assert (record["state"], record["running"]) == ("gone", 0)

    def unchanged() -> bool:
        before = table_status()["shards_done"]
        time.sleep(2.0)
        return table_status()["shards_done"] == before

    until(unchanged, "the last commits of workers whose driver is gone", 30.0)
    record, table = table_status(), Table.open(Storage(workdir), "scores/numbers")
    assert record["shards_done"] == len(table.commits())
    assert record["rows"] == table.num_rows
    lines = (tmp_path / "run/logs/scores.log").read_text().splitlines()
    fields = re.compile(r"\S+ table=scores/numbers worker=\S+ node=\S+ shard=\S+ ")
    assert lines
    assert [line for line in lines if not fields.match(line)] == []


def until_scraped(port: int) -> dict[tuple[str, str], float]:
    gauges: dict[tuple[str, str], float] = {}
    until(lambda: gauges.update(scrape(port)) or any("slowness" in name for name, _ in gauges), "the metrics", 30.0)
    return gauges
