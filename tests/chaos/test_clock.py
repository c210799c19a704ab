"""The clock of the machine is set, by an hour forwards and a day backwards, while a run is at work."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.storage import Storage
from tests.chaos.driver import Spec
from tests.chaos.harness import ROOT, Driver, assert_nothing_lost, begun, until
from tests.chaos.ledger import note

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@pytest.mark.slow
@pytest.mark.skipif(not LIBRARY.exists(), reason="NOT TRIED: a clock that jumps needs the Debian package libfaketime")
def test_a_clock_that_jumps_changes_nothing(dice: random.Random, marker: str, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # setting the clock does not move that one
    }
    spec = Spec(str(tmp_path / "run"), marker, seconds=0.2)
    spec.cluster = {"shard_timeout_s": 30.0, "wait_timeout_s": 60.0}
    with Driver(spec, environment) as driver:
        for jump in ("+3600", "-86400"):
            until(driver.at_work, "the first shard")
            time.sleep(dice.uniform(0.2, 1.0))
            before = len(begun(marker))
            clock.write_text(jump)
            until(lambda before=before: len(begun(marker)) > before + 3 or not driver.look(), "work after the jump")
        driver.wait()
    times = [float(line.split()[3]) - time.time() for line in Path(marker).read_text().splitlines()]
    assert max(times) > 3000, "the workers' clock did not jump forwards"
    assert min(times) < -80_000, "the workers' clock did not jump backwards"
    assert_nothing_lost(Storage.open(spec.workdir), spec.rows)
    note("clock set an hour forwards, then a day backwards", 0.0)


def test_a_process_is_known_again_after_the_clock_was_set(tmp_path: Path) -> None:
    """Setting the clock moves the boot time in /proc/stat, from which the usual start time of a process is computed."""
    moved = tmp_path / "stat"
    lines = [f"btime {int(line.split()[1]) + 3600}" if line.startswith("btime") else line
             for line in Path("/proc/stat").read_text().splitlines()]  # fmt: skip
    moved.write_text("\n".join(lines) + "\n")
    code = (
        "import psutil; from cluster.actor import identify\n"
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

    from cluster.actor import identify

    created, pid, start = map(float, done.stdout.split())
    assert created == pytest.approx(psutil.Process().create_time() + 3600, abs=1), "the boot time was moved"
    assert (pid, start) == identify(psutil.Process())
