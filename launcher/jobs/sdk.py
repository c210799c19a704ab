"""Ray's job client with a time limit on every request, without which a lost connection waits for ever.

Importing this module imports Ray, which reads its environment then: see `launcher.jobs.client.connect`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

from ray.job_submission import JobSubmissionClient

CONNECT_S, ANSWER_S = 10.0, 60.0
SILENCE_S = 60.0  # of a log; a connection that died without a word is found out by then

for noisy in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
    logging.getLogger(f"ray.{noisy}").setLevel(logging.WARNING)


class BoundedClient(JobSubmissionClient):
    """Every request ends: with an answer, or with an OSError."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": (CONNECT_S, ANSWER_S)} | options)

    def ray_version(self) -> str:
        """Version of the Ray that the cluster runs."""
        return str(self._do_request("GET", "/api/version").json().get("ray_version"))

    def tail(self, job_id: str) -> Iterator[str]:
        """A job's log in pieces, from its first character on; ends with the job, or after a minute of silence."""
        with asyncio.Runner() as runner:
            pieces = self.tail_job_logs(job_id)
            try:
                while (piece := runner.run(_next(pieces))) is not None:
                    yield piece
            finally:
                runner.run(_close(pieces))


async def _next(pieces: AsyncIterator[str]) -> str | None:
    try:
        return await asyncio.wait_for(anext(pieces), SILENCE_S)
    except (StopAsyncIteration, TimeoutError):
        return None


async def _close(pieces: Any) -> None:
    await pieces.aclose()
