"""Follows a job to its end, through lost connections, and ends as the job ended.

Ray sends a log from its beginning whenever it is asked. So what was shown is counted, and skipped after a reconnection:
every character is shown once, as long as the cluster's head keeps the file.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import TextIO

from cluster.errors import InputError, RunError
from cluster.watch.phrases import duration
from launcher.jobs.client import Job, Jobs, LostError

PATIENCE_S = 600.0  # without any answer
PAUSES_S = (1.0, 1.0, 2.0, 4.0, 8.0, 15.0)  # after so many failures in a row
UNREADABLE = 3  # attempts at a log whose job is known
LAST_LINES, LAST_CHARACTERS = 10, 4000

Say = Callable[[str], None]


def how_to(job_id: str, address: str) -> str:
    """The commands that go on with a job."""
    return (
        f"  follow it: listwise follow {job_id} --address {address}\n"
        f"  stop it:   listwise stop {job_id} --address {address}"
    )


def follow(jobs: Jobs, job_id: str, say: Say, out: TextIO | None = None, patience_s: float = PATIENCE_S) -> None:
    """Shows a job's log from its beginning until the job ends, and ends as it does.

    Args:
        say: takes what is not the job's own: that a connection is lost, or there again.
        out: takes the log; None: stdout.
        patience_s: longest time without an answer.

    Raises:
        InputError: the job ended with exit code 2, or there is none of this id.
        RunError: it failed otherwise or was stopped; or no answer for `patience_s`, and the job may go on.
    """
    log = _Log(out or sys.stdout)
    job = _watch(jobs, job_id, log, say, patience_s)
    if job.status == "SUCCEEDED":
        return
    if job.status == "STOPPED":
        raise RunError(f"job {job.id} was stopped. What is done is kept; the same listwise submit continues it.")
    if job.exit_code is None:
        raise RunError(f"job {job.id} failed before it ran: {job.message or 'the cluster gives no reason'}")
    failed = f"job {job.id} failed with exit code {job.exit_code}. Its last lines:\n{log.last()}"
    if job.exit_code == InputError.exit_code:
        raise InputError(failed)
    raise RunError(f"{failed}\nWhat is done is kept; the same listwise submit continues it.")


def _watch(jobs: Jobs, job_id: str, log: _Log, say: Say, patience_s: float) -> Job:
    """Shows the log as it grows; returns the job as it ended."""
    heard = time.monotonic()
    failures = unread = 0
    lost = False
    while True:
        job = None
        try:
            job = jobs.get(job_id)
            heard = time.monotonic()
            if lost:
                say(f"{jobs.address} answers again.")
                lost = False
            log.take(jobs.tail(job_id) if job.live else [jobs.log(job_id)])
            if not job.live:
                return job
            failures = unread = 0
        except LostError as error:
            failures += 1
            if job is None and not lost:
                lost = True
                say(f"{error}. Trying again for up to {duration(patience_s)}; the job does not depend on it.")
            if job is not None:
                unread += 1
                if unread == UNREADABLE:
                    say(f"The log of job {job_id} cannot be read now ({error}).")
                if unread >= UNREADABLE and not job.live:
                    return job
            if time.monotonic() - heard > patience_s:
                raise RunError(
                    f"{jobs.address} has not answered for {duration(patience_s)}. If the cluster lives, job {job_id} "
                    f"goes on:\n{how_to(job_id, jobs.address)}"
                ) from None
        time.sleep(PAUSES_S[min(failures, len(PAUSES_S) - 1)])


class _Log:
    """Shows each character of a log once, however often it is sent from its beginning."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown = 0
        self._end = ""

    def take(self, pieces: Iterable[str]) -> None:
        """Takes the log from its beginning and shows what is new."""
        position = 0
        for piece in pieces:
            new = piece[max(0, self._shown - position) :]
            position += len(piece)
            self._shown += len(new)
            self._end = (self._end + new)[-LAST_CHARACTERS:]
            self._out.write(new)
            self._out.flush()

    def last(self) -> str:
        """The last lines shown, indented."""
        return "\n".join(f"  {line}" for line in self._end.rstrip().splitlines()[-LAST_LINES:])
