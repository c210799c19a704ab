"""Fixtures of the tests of generation."""

from __future__ import annotations

import os
import threading

import pytest

from tests.generation.openai_server import Server


@pytest.fixture
def own_environment():
    """vLLM sets LD_PRELOAD and more where it is configured; other tests' processes shall not inherit that."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def serve():
    servers = []

    def start(reply, port: int = 0) -> Server:
        servers.append(Server(reply, port))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
