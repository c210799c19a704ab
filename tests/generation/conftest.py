"""Fixtures of the tests of generation."""

from __future__ import annotations

import os

import pytest

from tests.generation.openai_server import Server
from tests.loopback import serving


@pytest.fixture
def own_environment():
    """vLLM sets LD_PRELOAD and more where it is configured; other tests' processes shall not inherit that."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def serve():
    with serving(Server) as start:
        yield start
