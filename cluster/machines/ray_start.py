"""How Ray is started from this process: apart from its signals and the files in its folder, and without idle services.

Ray has no options for these, so a few of its functions are replaced while it starts.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from cluster.import_path import ROOT, safe_children


@contextlib.contextmanager
def started_apart() -> Iterator[None]:
    """Inside, `ray.init` leaves the signals of this process alone, and starts its processes in sessions of their own.

    `timeout`, a shell's Ctrl-C and a closed terminal signal the whole group of processes. Ray would end before the
    driver has asked its workers to stop, and calls to it would then never return. Its processes still end with this
    one: the kernel kills them (PR_SET_PDEATHSIG). Ray's own handlers of SIGTERM end the driver at once, with status 1
    or 15.
    """
    from ray._private import ray_constants, services, utils

    class OwnSession(services.ConsolePopen):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named, start_new_session=True)

    with (
        _replaced(services, "ConsolePopen", OwnSession),
        _replaced(utils, "set_sigterm_handler", lambda handler: None),
        # in C++, where a signal prints addresses
        _replaced(ray_constants, "RAY_DISABLE_FAILURE_SIGNAL_HANDLER", True),
        safe_children(),
    ):
        yield


@contextlib.contextmanager
def started_without_services(metrics: bool) -> Iterator[None]:
    """Inside, `ray.init` starts no API server, log monitor, autoscaler and, without `metrics`, no dashboard agent.

    Each of these is a Python process that takes one to three seconds of a core before a node is ready, and about a
    hundred MiB. A Ray of one machine that no dashboard shows, whose driver prints no logs and which cannot grow, asks
    them for nothing. Ray itself goes on without an API server where that fails to start; the agent has a stand-in.
    """
    from ray._private import parameter, services

    class Fewer(parameter.RayParams):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.include_log_monitor = False  # type: ignore[assignment]
            self.no_monitor = True

    start_process = services.start_ray_process

    def start(command: list[str], *arguments: Any, **named: Any) -> Any:
        if not metrics and command[0] == services.RAYLET_EXECUTABLE:
            command = [_with_stand_in(argument, command) for argument in command]
        return start_process(command, *arguments, **named)

    with (
        _replaced(parameter, "RayParams", Fewer),
        _replaced(services, "start_api_server", lambda *_, **__: (None, None)),
        _replaced(services, "start_ray_process", start),
    ):
        yield


def _with_stand_in(argument: str, command: list[str]) -> str:
    """An argument of the raylet, with the stand-in where it names the command of the dashboard agent."""
    name = "--dashboard_agent_command="
    if not argument.startswith(name):
        return argument
    given = dict(one.split("=", 1) for one in command if "=" in one)
    stand_in = str(Path(__file__).with_name("agent_stand_in.py"))
    words = [sys.executable, "-IS", stand_in, given["--session_dir"], given["--node_id"]]
    return name + subprocess.list2cmdline(words)


@contextlib.contextmanager
def _replaced(module: ModuleType, name: str, other: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, other)
    try:
        yield
    finally:
        setattr(module, name, before)


def job_config() -> Any:
    """A configuration of Ray's with which workers do not import from the folder of this process or of its script.

    Ray puts both before all others on the import path of every worker. A folder that holds this project's packages
    stays.
    """
    from ray.job_config import JobConfig

    class WithoutFolders(JobConfig):
        def _serialize(self) -> str:  # the last call before the configuration leaves this process
            self._py_driver_sys_path = [folder for folder in self._py_driver_sys_path if folder == str(ROOT)]
            return super()._serialize()

    return WithoutFolders()
