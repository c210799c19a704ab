"""Faults of the clock: it is set an hour forwards and a day backwards while a run works."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.tables.storage import Storage
from tests.chaos.driver import Spec
from tests.chaos.harness import ROOT, Driver, assert_nothing_lost, begun, until
from tests.chaos.ledger import note


def set_clock(clock: Path, seconds: int) -> None:
    """Moves the time of day of the processes that read this file (`clock.c`)."""
    with clock.open("r+b" if clock.exists() else "wb") as file:
        file.write(struct.pack("q", seconds))


@pytest.mark.slow
def test_a_clock_that_is_set_changes_nothing(dice: random.Random, marker: str, tmp_path: Path) -> None:
    if not (compiler := shutil.which("cc")):
        pytest.skip("NOT TRIED: a clock that is set needs a C compiler (cc)")
    library, clock = tmp_path / "clock.so", tmp_path / "clock"
    source = str(Path(__file__).with_name("clock.c"))
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), source, "-ldl"], check=True)
    set_clock(clock, 0)
    spec = Spec(str(tmp_path / "run"), marker, seconds=0.2)
    with Driver(spec, {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(clock)}) as driver:
        for seconds in (3600, -86400):
            until(driver.at_work, "the first shard")
            time.sleep(dice.uniform(0.2, 1.0))
            before = len(begun(marker))
            set_clock(clock, seconds)
            until(
                lambda before=before: len(begun(marker)) > before + 5 or not driver.is_running(),
                "work after it was set",
            )
        driver.hurry()
        driver.wait()
    now = time.time()
    shifts = [float(line.split()[3]) - now for line in Path(marker).read_text().splitlines()]
    assert max(shifts) > 3000, "the workers' clock was not set forwards"
    assert min(shifts) < -80_000, "the workers' clock was not set backwards"
    logged = (tmp_path / "run" / "logs" / "first.log").read_text().splitlines()
    hours = {line[:13] for line in logged}
    assert len(hours) >= 3, "the driver's clock was set, too"
    assert_nothing_lost(Storage(spec.workdir), spec.rows)
    note("clock set an hour forwards, then a day backwards", None)


def test_a_process_has_the_same_identity_after_the_clock_was_set(tmp_path: Path) -> None:
    """Setting the clock moves the boot time in /proc/stat, and psutil computes a process's start time from that."""
    moved = tmp_path / "stat"
    lines = [f"btime {int(line.split()[1]) + 3600}" if line.startswith("btime") else line
             for line in Path("/proc/stat").read_text().splitlines()]  # fmt: skip
    moved.write_text("\n".join(lines) + "\n")
    code = (
        "import psutil; from cluster.workers.process import identify\n"
        f"print(psutil.Process({os.getpid()}).create_time(), *identify(psutil.Process({os.getpid()})))"
    )
    command = ["unshare", "-m", "sh", "-c", 'mount --bind "$1" /proc/stat && exec "$2" -c "$3"', "sh"]
    done = subprocess.run(
        [*command, str(moved), sys.executable, code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode and ("not permitted" in done.stderr or "ermission denied" in done.stderr):
        pytest.skip(f"NOT TRIED: a boot time that moves needs a mount namespace: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    import psutil

    from cluster.workers.process import identify

    created, pid, start = map(float, done.stdout.split())
    assert created == pytest.approx(psutil.Process().create_time() + 3600, abs=1), "the boot time was moved"
    assert (pid, start) == identify(psutil.Process())
