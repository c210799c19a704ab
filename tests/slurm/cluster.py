"""The two-node SLURM as tests use it: starts it, and calls its commands from outside of its namespaces."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.slurm.machine import START_S

ROOT = Path(__file__).parents[2]
PROGRAMS = ("unshare", "nsenter", "ip", "munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel")
NAMESPACES = ("--net", "--mount", "--uts", "--ipc", "--pid")


def missing() -> str | None:
    """The reason why SLURM cannot be started here; None if it can."""
    if os.geteuid() != 0:
        return "a SLURM of two nodes needs root, for network namespaces"
    if absent := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"not installed: {', '.join(absent)} (Debian: slurm-wlm munge iproute2)"
    done = subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], capture_output=True, text=True, check=False)
    return f"namespaces are not permitted here: {done.stderr.strip()}" if done.returncode else None


def until(holds: Callable[[], object], what: str, limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, f"waited {limit_s} s for {what}"
        time.sleep(0.1)


def pid_namespace(pid: int) -> Path:
    """The name of a process's PID namespace."""
    return Path(f"/proc/{pid}/ns/pid").readlink()


class Slurm:
    """A SLURM of two nodes, node1 and node2, with four CPUs each in its configuration."""

    def __init__(self, base: Path) -> None:
        self.base = base
        command = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
        self._outer = subprocess.Popen(
            [*command, sys.executable, "-m", "tests.slurm.machine", str(base)],
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        end = time.monotonic() + START_S + 10
        while not (base / "ready").exists():
            if self._outer.poll() is not None or time.monotonic() > end:
                self.close()
                logs = "".join(file.read_text()[-2000:] for file in base.glob("*.log"))
                raise RuntimeError(f"SLURM did not start: {self._outer.communicate()[1]}\n{logs}")
            time.sleep(0.05)
        self._inner = psutil.Process(self._outer.pid).children()[0]

    def close(self) -> None:
        self._outer.kill()  # the kernel then kills all processes inside
        self._outer.wait()

    def call(self, *words: str, cwd: Path = ROOT, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command on the machine that SLURM's nodes share."""
        enter = ["nsenter", f"--target={self._inner.pid}", *NAMESPACES, f"--wd={cwd}", "--"]
        # The variables that Ray has set in other tests are left out.
        plain = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        environment = plain | {
            "RAY_worker_niceness": "0",
            "SLURM_CONF": str(self.base / "slurm.conf"),
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
            "NO_COLOR": "1",
        }
        done = subprocess.run(
            [*enter, *words], capture_output=True, text=True, env=environment, timeout=120, check=False
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def sbatch(self, script: Path, *options: str) -> str:
        """Submits a script and returns the id of the job; by default the job runs in the script's folder."""
        return self.call("sbatch", "--parsable", *options, str(script), cwd=script.parent).stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """SLURM's description of a job: JobState, ExitCode, Restarts, …"""
        shown = self.call("scontrol", "show", "job", "-o", number).stdout
        return dict(re.findall(r"(\w+)=(\S*)", shown))

    def finished(self, number: str, limit_s: float = 120) -> dict[str, str]:
        """Waits until a job has ended, and returns SLURM's description of it."""
        live = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED")
        until(lambda: self.job(number)["JobState"] not in live, f"the end of job {number}", limit_s)
        return self.job(number)

    def step_logs(self, folder: Path) -> str:
        """The logs of all jobs of a folder, for the message of an assertion."""
        return "\n".join(f"== {file}\n{file.read_text()}" for file in sorted(folder.glob("listwise-*.log")))

    def processes(self, node: str) -> list[str]:
        """Command lines of the processes on a node, without SLURM's own."""
        inside = self._inner.children(recursive=True)
        slurmd = next(process for process in inside if process.name() == "slurmd" and node in process.cmdline())
        namespace = pid_namespace(slurmd.pid)
        commands = []
        for process in inside:
            try:
                if (
                    pid_namespace(process.pid) == namespace
                    and process.pid not in (slurmd.pid, slurmd.ppid())
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    commands.append(" ".join(process.cmdline()) or process.name())
            except (psutil.Error, OSError):
                continue
        return commands

    def unplug(self, node: str) -> None:
        """Cuts a node's network."""
        self.call("ip", "-n", node, "link", "set", "eth0", "down")
