"""Submitting a run as a job, unless a job works on its workdir already.

The workdir holds the state of a run, and a job is one attempt at it. So the id of a job is
`<name>-<digest of the workdir>-<attempt>`. Two drivers never work on one workdir, and a new attempt continues the one
before.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import InputError, RunError
from launcher import remote
from launcher.environment import installed_version
from launcher.jobs import parcel
from launcher.jobs.client import VERSION, WORKDIR, Job, JobExistsError, Jobs
from launcher.recipe import Recipe

# By default Ray stops a job with SIGTERM, and kills it after 3 s. With SIGINT (Ctrl-C) and more time, a run can record
# that it was interrupted.
GENTLE_STOP = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
STOP_LIMIT_S = 60.0
RACES = 5  # attempts to find a free id while other clients submit
_READ_AT_START = ("RAY_", "PYTHON", "LD_")


@dataclass(frozen=True)
class Submission:
    """The job that works on a run, and whether this call has started it."""

    job_id: str
    is_new: bool


def check(recipe: Recipe, env: Sequence[str]) -> dict[str, str]:
    """Checks for mistakes that would fail on the cluster; returns the environment variables to send.

    Args:
        recipe: of the run.
        env: names of environment variables.

    Raises:
        InputError: the workdir is relative, an input is neither absolute nor sent with the job, or a variable is not
            set or would come too late.
    """
    remote.check_workdir(recipe)
    root = parcel.checkout()
    for field, path in remote.relative_inputs(recipe).items():
        if root is None or Path.cwd().resolve() != root or not _is_sent(root, path, recipe.workdir):
            raise InputError(
                f"{field} '{path}' is not absolute, so a job cannot find it. Only files that git tracks are sent with "
                "a job, if you are in the root of the checkout that listwise runs from. Name a path that every node "
                "sees, or a hub id."
            )
    for name in env:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise InputError(f"--env {name}: expected only the name of an environment variable, such as HF_TOKEN")
        if name not in os.environ:
            raise InputError(f"--env {name}: this variable is not set here; set it, or omit the option")
        if name.startswith(_READ_AT_START):
            raise InputError(
                f"--env {name}: Ray, Python and the loader of libraries read it when a process starts, and "
                "the values of --env come later. Set it where the nodes of the cluster are started."
            )
    return {name: os.environ[name] for name in env}


def _is_sent(root: Path, path: str, workdir: str) -> bool:
    """Whether the parcel holds a file or folder of the checkout."""
    normal = os.path.normpath(path)
    return any(file == normal or file.startswith(f"{normal}/") for file in parcel.paths_to_send(root, workdir))


def submit(jobs: Jobs, recipe: Recipe, options: Sequence[str], env: dict[str, str]) -> Submission:
    """Starts the next attempt at a run, unless one is waiting or running.

    Args:
        jobs: of the cluster.
        recipe: of the run.
        options: options of `listwise run`, such as ["--until", "lists"].
        env: environment variables for the job; they may hold secrets.

    Raises:
        InputError: the cluster has another version of Ray, or the tree is too large.
        RunError: other clients kept submitting the same run.
    """
    jobs.check_version()
    digest = remote.workdir_digest(recipe.workdir)
    words = ["python", "-m", "launcher.cli", "run", parcel.RECIPE, *options]
    metadata = {WORKDIR: recipe.workdir, VERSION: installed_version("listwise") or ""}
    joining = recipe.model_copy(update={"cluster": recipe.cluster.model_copy(update={"address": "auto"})})
    with tempfile.TemporaryDirectory(prefix="listwise-") as folder:
        parcel.pack(joining.to_yaml(), parcel.checkout(), Path(folder), recipe.workdir)
        for _ in range(RACES):
            previous = attempts(jobs.all(), digest)
            if live := [job for job in previous.values() if job.live]:
                return Submission(live[-1].id, is_new=False)
            job_id = f"{remote.label(recipe.name)}-{digest}-{max(previous, default=0) + 1}"
            try:
                # With `exec`, the signal to stop reaches the run itself, and its exit code is the job's.
                jobs.submit(job_id, f"exec {shlex.join(words)}", Path(folder), GENTLE_STOP, metadata, env)
            except JobExistsError:  # two clients have submitted at once; the other client's job is listed now
                continue
            return Submission(job_id, is_new=True)
    raise RunError(
        f"other clients keep submitting {recipe.workdir} at the same time; list the jobs with: listwise jobs"
    )


def attempts(jobs: Iterable[Job], digest: str) -> dict[int, Job]:
    """The attempts at one workdir by their numbers, in order; the name in the id does not matter."""
    numbered = {}
    for job in jobs:
        if match := re.fullmatch(rf".+-{digest}-(\d+)", job.id):
            numbered[int(match[1])] = job
    return dict(sorted(numbered.items()))


def stop(jobs: Jobs, job_id: str, limit_s: float = STOP_LIMIT_S) -> bool:
    """Stops a job and waits for its end; returns False if it had already ended.

    Raises:
        RunError: the job does not end in time.
    """
    if not jobs.get(job_id).live:
        return False
    jobs.stop(job_id)
    limit = time.monotonic() + limit_s
    while jobs.get(job_id).live:
        if time.monotonic() > limit:
            raise RunError(
                f"job {job_id} has not ended {limit_s:.0f} s after the request to stop; look at the dashboard"
            )
        time.sleep(0.5)
    return True
