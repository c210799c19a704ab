"""Workers of a Ray started here are forked from a server that has imported what they need."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster.machines import fork_server

RARE = "sqlite3.dump"  # a module that nothing else imports

DRIVER = """
import os, signal, sys
import psutil
from cluster.machines import fork_server, session
from cluster.settings import ClusterSettings

session.connect(ClusterSettings(cpus=2))
import ray

@ray.remote(num_cpus=0)
class Look:
    def look(self, module):
        from cluster.workers.threads import use_held_cores
        import torch
        use_held_cores()
        parent = psutil.Process(os.getppid()).cmdline()
        return ("cluster.machines.fork_server" in parent, module in sys.modules, os.environ.get("MARK"),
                torch.get_num_threads(), os.getpgid(0) == os.getpid())

def look(module):
    actor = Look.options(runtime_env={"env_vars": {"MARK": "2"}} if module == "plain" else None).remote()
    return ray.get(actor.look.remote(module))

print(look("MODULE"))
fork_server.preload(["no.such.module", "MODULE", "torch"])
print(look("MODULE"))
print(look("plain"))
[server] = fork_server._running
os.kill(server._process.pid, signal.SIGKILL)
print(look("MODULE"))
print(server._process.pid, os.path.exists(server.path), flush=True)
if "stay" in sys.argv:
    signal.pause()
session.disconnect()
print(os.path.exists(server.path), len(fork_server._running))
"""


@pytest.mark.slow
def test_workers_are_forked_with_what_was_imported_and_start_without_the_server_too(tmp_path: Path) -> None:
    environment = os.environ | {"MARK": "1", "OMP_NUM_THREADS": "2"}
    driver = [sys.executable, "-c", DRIVER.replace("MODULE", RARE)]
    done = subprocess.run(driver, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "(True, False, '1', 2, True)"
    assert lines[1] == "(True, True, '1', 2, True)", "imported before it was forked; two threads for all that"
    assert lines[2].startswith("(False, False, '2', 2"), "a runtime environment of its own is Ray's affair"
    assert lines[3].startswith("(False, False, '1', 2"), "without the server it starts as Ray starts it"
    assert lines[5:] == ["False 0"], "nothing is left"


def test_a_server_ends_with_the_process_that_started_it_and_leaves_no_folder() -> None:
    code = (
        "import time; from cluster.machines.fork_server import ForkServer; s = ForkServer().__enter__(); "
        "time.sleep(2); print(s._process.pid, s.path, flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout
    number, path = owner.stdout.readline().split()
    server = psutil.Process(int(number))
    assert Path(path).is_socket()
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    limit = time.monotonic() + 30
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < limit, "the server outlives its session"
        time.sleep(0.1)
    assert not Path(path).parent.exists()


def test_no_server_where_a_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([Path("/dev/nvidia0")]))
    with fork_server.started_by_server():
        assert fork_server.VARIABLE not in os.environ
