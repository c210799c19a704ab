"""Deaths of the driver: before a worker's commit, during the driver's own commit, and at random moments."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.tables.storage import Storage
from tests.chaos.driver import CRASHES, Spec
from tests.chaos.harness import Driver, assert_nothing_lost, kill, leftovers, until
from tests.chaos.ledger import note

ROWS, POISON = 400, 397


BETWEEN = "driver killed between a worker's data file and commit record"
CUT = "driver killed in the commit of a bisected shard"
RANDOM = "driver killed at a random moment"


def planned_deaths(spec: Spec, dice: random.Random, deaths: list[str]) -> Iterator[str]:
    """The deaths of the driver, one after the other. Before each one the spec is changed so that it will happen."""
    if BETWEEN in deaths:
        # the poison row is in the last shard, so that its shard is not yet cut when the first life ends
        spec.between, spec.delay = f"{dice.randrange(20):05d}", dice.uniform(0.0, 0.5)
        yield BETWEEN
        spec.between = ""
    if CUT in deaths:
        spec.crash = dice.choice(list(CRASHES))
        yield f"{CUT}, {spec.crash}"
        spec.crash = ""
    if RANDOM in deaths:
        yield RANDOM


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_driver_killed_again_and_again_loses_nothing(
    dice: random.Random, marker: str, faults: Callable[[list[str]], list[str]]
) -> None:
    spec = Spec(marker.replace("marker", "run"), marker, rows=ROWS, poison=POISON, seconds=0.1)
    times: dict[str, float] = {}
    deaths = planned_deaths(spec, dice, faults([BETWEEN, CUT, RANDOM]))
    death = next(deaths)
    with Driver(spec) as driver:
        while death:
            if death == RANDOM:
                until(driver.at_work, "the first shard")
                time.sleep(dice.uniform(0.0, 2.5))
                driver.is_running()
                kill(driver.process.pid)
            until(lambda: not driver.is_running(), death)
            died, code = time.monotonic(), driver.process.wait()
            if code == 0 and death == RANDOM:
                break  # it finished before it was killed
            assert code == -9, driver.errors.read_text()[-3000:]
            ended, death = death, next(deaths, "")
            driver.start()
            until(driver.at_work, "work of the next life")
            times[ended] = time.monotonic() - died
        driver.hurry()
        driver.wait()
    if BETWEEN in times:
        first_file = Path(f"{spec.workdir}.between").read_text()
        assert first_file.startswith("first/data/"), "the first life ended after the put of a data file"
    assert leftovers(spec.workdir, "first") == [], "the end of the stage removes files without a record"
    assert_nothing_lost(Storage(spec.workdir), ROWS, POISON, by="id" if BETWEEN in times else "value")
    for fault, seconds in times.items():
        note(fault, seconds)
