"""Fixtures of the fault tests: random numbers that a seed repeats, and a cluster of nodes."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.harness import Nodes
from tests.dice import throw

FULL = (
    "CHAOS_FULL" in os.environ
)  # set in a round of chaos; without it tests run in a shorter form, as part of the test suite


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    return throw(request.node.name)


@pytest.fixture
def faults(dice: random.Random) -> Callable[[list[str]], list[str]]:
    """A function that selects from slow faults: all of them in a round of chaos, one at random in the shorter form."""
    return lambda all_of_them: all_of_them if FULL else [dice.choice(all_of_them)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A Ray cluster whose head has no cores; tests add nodes to it."""
    with Nodes() as cluster:
        yield cluster


@pytest.fixture
def marker(tmp_path: Path) -> str:
    """The file in which workers note every shard that they begin."""
    return str(tmp_path / "marker")
