"""Dice that a seed repeats, and a cluster of nodes."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.harness import Nodes
from tests.dice import throw

FULL = "CHAOS_FULL" in os.environ  # else the shorter form, as a part of all tests


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    return throw(request.node.name)


@pytest.fixture
def faults(dice: random.Random) -> Callable[[list[str]], list[str]]:
    """Of faults that cost a test many seconds each, all in a round of chaos, and one by chance in the shorter form."""
    return lambda all_of_them: all_of_them if FULL else [dice.choice(all_of_them)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster whose head has no cores; the test adds the nodes."""
    with Nodes() as cluster:
        yield cluster


@pytest.fixture
def marker(tmp_path: Path) -> str:
    """File in which workers note what they begin."""
    return str(tmp_path / "marker")
