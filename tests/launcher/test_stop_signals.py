"""A signal to the group of a run's processes, or to all of them, stops it with the usual status and words."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.pipeline import LISTWISE, recipe_text


@pytest.fixture
def start(hundred: Path, tiny_encoder: str, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a run in a group of its own, as `timeout` and systemd do."""
    (tmp_path / "recipe.yaml").write_text(recipe_text(hundred, tiny_encoder, tmp_path / "run"))
    started: list[subprocess.Popen[str]] = []

    def run() -> subprocess.Popen[str]:
        command = [LISTWISE, "run", "recipe.yaml"]
        started.append(
            subprocess.Popen(
                command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
        )
        return started[-1]

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def until(happened: Callable[[], object], running: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 120
    while not happened():
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.02)


def catches(running: subprocess.Popen[str], number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{running.pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def children(running: subprocess.Popen[str]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(running.pid).children(recursive=True)
    return []


def names(running: subprocess.Popen[str]) -> set[str]:
    found = set()
    for process in children(running):
        with contextlib.suppress(psutil.Error):
            found.add(process.name())
    return found


def assert_stopped(running: subprocess.Popen[str], number: int, within_s: float) -> str:
    """Checks status, words and that nothing of the run is left; returns what it has said."""
    ours = children(running)
    begun = time.monotonic()
    output, errors = running.communicate(timeout=120)
    assert running.returncode == 128 + number, errors
    assert time.monotonic() - begun < within_s
    assert "Interrupted." in errors
    assert "Traceback" not in output + errors
    assert "\x1b" not in errors and "logging.cc" not in errors, "Ray says nothing"
    _, left = psutil.wait_procs(ours, timeout=30)
    assert not left
    return errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_the_imports(start: Callable[[], subprocess.Popen[str]], number: int) -> None:
    running = start()
    until(lambda: catches(running, signal.SIGTERM), running)
    os.killpg(running.pid, number)
    assert_stopped(running, number, 30)


@pytest.mark.cluster
def test_a_signal_to_the_group_while_ray_starts_and_to_all_processes_while_workers_work(
    start: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    how = "What is done is kept; continue with: listwise run recipe.yaml"
    running = start()
    until(lambda: "raylet" in names(running), running)
    os.killpg(running.pid, signal.SIGHUP)
    assert how in assert_stopped(running, signal.SIGHUP, 30)

    running = start()
    until(lambda: list((tmp_path / "run").glob("records/commits/*")), running)
    os.killpg(running.pid, signal.SIGTERM)
    for process in [psutil.Process(running.pid), *children(running)]:  # as systemd does, and `timeout` its child, twice
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    assert how in assert_stopped(running, signal.SIGTERM, 30)


@pytest.mark.slow
def test_rays_processes_end_with_a_driver_that_is_killed(start: Callable[[], subprocess.Popen[str]]) -> None:
    running = start()
    until(lambda: {"raylet", "gcs_server"} <= names(running), running)
    ours = children(running)
    groups = {os.getpgid(process.pid) for process in ours if process.name() in ("raylet", "gcs_server")}
    assert running.pid not in groups
    running.kill()
    # an agent of Ray's that was just starting asks the killed control service for over a minute (71 to 78 s)
    _, left = psutil.wait_procs(ours, timeout=120)
    assert not left
