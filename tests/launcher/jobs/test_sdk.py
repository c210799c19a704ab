"""The client's log stream, where a request to stop comes while it waits."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from launcher.interrupt import Interrupts
from launcher.jobs.sdk import BoundedClient


class Silent(BoundedClient):
    """A client whose cluster sends one piece of a log, and then nothing."""

    def __init__(self) -> None:
        self.is_closed = False

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        try:
            yield f"the log of {job_id}"
            await asyncio.sleep(30)
        finally:
            self.is_closed = True


@pytest.fixture
def default_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_handler")
def test_ctrl_c_comes_out_of_a_log_that_waits_and_its_connection_is_closed() -> None:
    client = Silent()
    with Interrupts():
        pieces = client.tail("a-job")
        assert next(pieces) == "the log of a-job"
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            next(pieces)
    assert client.is_closed
