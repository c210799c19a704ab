"""Following a job: its log is shown until it ends, also after lost connections; the command ends as the job ended.

Ray sends a log from its beginning with every request. So the characters that were shown are counted, and skipped after
a reconnection: every character is shown once, as long as the head node keeps the file.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import TextIO

from cluster.errors import InputError, RunError
from cluster.watch.phrases import duration
from launcher.jobs.client import ConnectionLostError, Job, Jobs

PATIENCE_S = 600.0  # longest time without an answer
PAUSES_S = (1.0, 1.0, 2.0, 4.0, 8.0, 15.0)  # before the next request; the index is the number of failures in a row
UNREADABLE = 3  # failed attempts to read the log of a known job, after which the log counts as unreadable
LAST_LINES, LAST_CHARACTERS = 10, 4000

Say = Callable[[str], None]


def how_to(job_id: str, address: str) -> str:
    """The commands to follow a job and to stop it."""
    return (
        f"  follow it: listwise follow {job_id} --address {address}\n"
        f"  stop it:   listwise stop {job_id} --address {address}"
    )


def follow(jobs: Jobs, job_id: str, say: Say, out: TextIO | None = None, patience_s: float = PATIENCE_S) -> None:
    """Shows the log of a job from its beginning until the job ends; returns if the job succeeded.

    Args:
        jobs: of the cluster.
        job_id: of the job.
        say: prints messages that are not from the log: that the connection is lost, or works again.
        out: stream for the log; None: stdout.
        patience_s: longest time without an answer.

    Raises:
        InputError: the job ended with exit code 2, or the cluster has no job with this id.
        RunError: the job failed otherwise or was stopped; or the cluster gave no answer for `patience_s` (its job may
            continue).
    """
    log = _Log(out or sys.stdout)
    job = _watch(jobs, job_id, log, say, patience_s)
    if job.status == "SUCCEEDED":
        return
    if job.status == "STOPPED":
        raise RunError(f"job {job.id} was stopped. What is done is kept; the same listwise submit continues it.")
    if job.exit_code is None:
        raise RunError(f"job {job.id} failed before it ran: {job.message or 'the cluster gives no reason'}")
    message = f"job {job.id} failed with exit code {job.exit_code}. Its last lines:\n{log.last()}"
    if job.exit_code == InputError.exit_code:
        raise InputError(message)
    raise RunError(f"{message}\nWhat is done is kept; the same listwise submit continues it.")


def _watch(jobs: Jobs, job_id: str, log: _Log, say: Say, patience_s: float) -> Job:
    """Shows the log while it grows; returns the job after its end."""
    last_answer = time.monotonic()
    failures = unread = 0
    lost = False
    while True:
        job = None
        try:
            job = jobs.get(job_id)
            last_answer = time.monotonic()
            if lost:
                say(f"{jobs.address} answers again.")
                lost = False
            log.take(jobs.tail(job_id) if job.live else [jobs.log(job_id)])
            if not job.live:
                return job
            failures = unread = 0
        except ConnectionLostError as error:
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
            if time.monotonic() - last_answer > patience_s:
                raise RunError(
                    f"{jobs.address} has not answered for {duration(patience_s)}. If the cluster still runs, job "
                    f"{job_id} continues:\n{how_to(job_id, jobs.address)}"
                ) from None
        time.sleep(PAUSES_S[min(failures, len(PAUSES_S) - 1)])


class _Log:
    """The log of a job; it shows each character once, although Ray sends the log from its beginning every time."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown = 0  # characters
        self._end = ""  # the last characters shown

    def take(self, pieces: Iterable[str]) -> None:
        """Reads the log from its beginning and shows the new characters."""
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
