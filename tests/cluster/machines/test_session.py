"""A Ray that a run starts is private, also in a run that continues a planned table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The facts about its Ray that a run prints which continues a table (`tests/cluster/resumed.py`)."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "tests.cluster.resumed", str(tmp_path_factory.mktemp("session") / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=plain, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_that_continues_listens_on_loopback_and_asks_for_a_token(started: dict[str, Any]) -> None:
    assert {key: started[key] for key in ("rows", "address", "token")} == {
        "rows": 20, "address": "127.0.0.1", "token": 64,
    }  # fmt: skip


def test_none_of_its_ports_can_be_reached_from_another_machine(started: dict[str, Any]) -> None:
    assert set(started["listening"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_another_program_of_this_machine_without_the_token_is_refused(started: dict[str, Any]) -> None:
    assert "connected" not in started["stranger"]
    assert "token" in started["stranger"].lower()


def test_it_has_no_dashboard(started: dict[str, Any]) -> None:
    assert started["dashboard"] == ""


def test_no_service_runs_that_nobody_asks(started: dict[str, Any]) -> None:
    idle = {"dashboard.py", "monitor.py", "log_monitor.py", "agent.py"}
    assert "agent_stand_in.py" in started["services"]
    assert not idle & set(started["services"])


def test_its_sockets_and_logs_lie_in_a_folder_of_this_user_alone(started: dict[str, Any]) -> None:
    assert "700" in started["modes"]
