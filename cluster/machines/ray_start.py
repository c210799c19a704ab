"""How Ray is started from this process: apart from its signals, and from the files in its folder.

Ray has no options for these, so a few of its functions are replaced while it starts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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
