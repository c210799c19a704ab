"""The stand-in of Ray's dashboard agent answers as Ray's own does, and ends with the raylet."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
from ray import _raylet

from cluster.machines import agent_stand_in, ray_start

NODE = "ab" * 28  # an id of Ray's has 28 bytes


def test_it_names_the_services_that_the_raylet_waits_for() -> None:
    assert agent_stand_in.SERVICES == (
        _raylet.METRICS_AGENT_PORT_NAME,
        _raylet.METRICS_EXPORT_PORT_NAME,
        _raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
    )


def test_its_files_are_those_that_ray_writes_for_an_absent_service(tmp_path: Path) -> None:
    for folder in ("ours", "rays"):
        (tmp_path / folder).mkdir()
    agent_stand_in.stand_in(str(tmp_path / "ours"), NODE, raylet=0)  # returns: the parent is another
    for service in agent_stand_in.SERVICES:
        _raylet.persist_port(str(tmp_path / "rays"), NODE, service, -1)
    written = {folder: {file.name: file.read_text() for file in (tmp_path / folder).iterdir()}
               for folder in ("ours", "rays")}  # fmt: skip
    assert written["ours"] == written["rays"]
    assert len(written["ours"]) == len(agent_stand_in.SERVICES)


def test_it_starts_by_the_argument_that_the_raylet_gets_and_ends_with_the_raylet(tmp_path: Path) -> None:
    session = tmp_path / "a session"
    session.mkdir()
    name = "--dashboard_agent_command="
    raylet = ["raylet", f"--session_dir={session}", f"--node_id={NODE}", f"{name}python agent.py --port=1"]
    *others, argument = (ray_start._with_stand_in(each, raylet) for each in raylet)
    assert others == raylet[:3]
    command = argument.removeprefix(name)
    code = (
        "import os, shlex, subprocess; os.environ['RAY_RAYLET_PID'] = str(os.getpid()); "
        f"print(subprocess.Popen(shlex.split({command!r})).pid, flush=True); input()"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout
    stand_in = psutil.Process(int(owner.stdout.readline()))
    limit = time.monotonic() + 30
    while len(list(session.iterdir())) < len(agent_stand_in.SERVICES):
        assert time.monotonic() < limit
        time.sleep(0.05)
    owner.kill()
    owner.wait()
    while stand_in.is_running() and stand_in.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < limit, "the stand-in outlives the raylet"
        time.sleep(0.05)


def test_it_ends_where_the_raylet_ended_before_it_began(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    command = [sys.executable, "-IS", agent_stand_in.__file__, str(tmp_path), NODE]
    subprocess.run(command, env=os.environ | {"RAY_RAYLET_PID": str(gone.pid)}, timeout=30, check=True)
