"""Ray's job client with a time limit for every request; without one, a request on a lost connection never ends.

This module imports Ray, and Ray reads its environment variables at import: see `launcher.jobs.client.connect`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

from ray.job_submission import JobSubmissionClient

CONNECT_S, ANSWER_S = 10.0, 60.0
SILENCE_S = 60.0  # longest wait for the next piece of a log, so that a dead connection is noticed

for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
    logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)


class BoundedClient(JobSubmissionClient):
    """Ray's job client, with which every request ends: with an answer, or with an OSError."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": (CONNECT_S, ANSWER_S)} | options)

    def ray_version(self) -> str:
        """The version of Ray on the cluster."""
        return str(self._do_request("GET", "/api/version").json().get("ray_version"))

    def store(self, name: str, content: bytes) -> None:
        """Puts content into the memory of the cluster's head, under a key `gcs://name`. No log shows it."""
        answer = self._do_request("PUT", f"/api/packages/gcs/{name}", data=content)
        if answer.status_code != 200:
            self._raise_error(answer)

    def tail(self, job_id: str) -> Iterator[str]:
        """Yields a job's log in pieces, from its beginning, until the job ends or no piece comes for `SILENCE_S`."""
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
    """Ends the log's connection; a request to stop may have left a task that waits for the next piece."""
    waiting = asyncio.all_tasks() - {asyncio.current_task()}
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await pieces.aclose()
