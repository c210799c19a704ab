"""One seed for all dice of a session: a failure prints it, `CHAOS_SEED=N pytest tests/chaos` repeats its throws."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.harness import Nodes

SEED = int(os.environ.get("CHAOS_SEED", str(time.time_ns() % 1_000_000)))


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    print(f"CHAOS_SEED={SEED}")
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster whose head has no cores; the test adds the nodes."""
    with Nodes() as cluster:
        yield cluster


@pytest.fixture
def marker(tmp_path: Path) -> str:
    """File in which workers note what they begin."""
    return str(tmp_path / "marker")
