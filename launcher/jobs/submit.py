"""Submits a run as a job, or finds the one that works on its workdir already.

The workdir is the state of a run, so a job is only an attempt at it: `<name>-<digest of the workdir>-<attempt>`. Two
drivers never work on one workdir, and a new attempt continues what the one before left.
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
from launcher.jobs.client import VERSION, WORKDIR, Job, Jobs, TakenError
from launcher.recipe import Recipe

# Ray ends a job with SIGTERM and kills it after 3 s. A run takes SIGINT as Ctrl-C: it notes that it was interrupted.
GENTLE_STOP = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
STOP_LIMIT_S = 60.0
RACES = 5


@dataclass(frozen=True)
class Submission:
    """The job that works on a run, and whether this call started it."""

    job_id: str
    is_new: bool


def check(recipe: Recipe, env: Sequence[str]) -> dict[str, str]:
    """Looks for what would fail on the cluster; returns the environment variables to send.

    Raises:
        InputError: a relative workdir, an input that does not travel, a variable that is not set here.
    """
    remote.check_workdir(recipe)
    root = parcel.checkout()
    for field, path in remote.relative_inputs(recipe).items():
        if root is None or Path.cwd().resolve() != root or not _travels(root, path, recipe.workdir):
            raise InputError(
                f"{field} '{path}' is not absolute, and a job has nothing there: only what git tracks in the checkout "
                "that listwise runs from travels, if it is also the folder you are in. Name a path that every node "
                "sees, or a hub id."
            )
    for name in env:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise InputError(f"--env {name}: expected the name of an environment variable, such as HF_TOKEN, no value")
        if name not in os.environ:
            raise InputError(f"--env {name}: it is not set here; set it, or leave the option out")
    return {name: os.environ[name] for name in env}


def _travels(root: Path, path: str, workdir: str) -> bool:
    inside = os.path.normpath(path)
    return any(one == inside or one.startswith(f"{inside}/") for one in parcel.chosen(root, workdir))


def submit(jobs: Jobs, recipe: Recipe, options: Sequence[str], env: dict[str, str]) -> Submission:
    """Starts the next attempt at a run, unless one is under way.

    Args:
        options: of `listwise run`, such as ["--until", "lists"].
        env: environment variables of the job, secrets among them.

    Raises:
        InputError: another Ray on the cluster, or a tree that is too large.
    """
    jobs.check_version()
    digest = remote.workdir_digest(recipe.workdir)
    words = ["python", "-m", "launcher.cli", "run", parcel.RECIPE, *options]
    metadata = {WORKDIR: recipe.workdir, VERSION: installed_version("listwise") or ""}
    there = recipe.model_copy(update={"cluster": recipe.cluster.model_copy(update={"address": "auto"})})
    with tempfile.TemporaryDirectory(prefix="listwise-") as folder:
        parcel.pack(there.to_yaml(), parcel.checkout(), Path(folder), recipe.workdir)
        for _ in range(RACES):
            before = attempts(jobs.all(), digest)
            if under_way := [job for job in before.values() if job.live]:
                return Submission(under_way[-1].id, is_new=False)
            job_id = f"{remote.label(recipe.name)}-{digest}-{max(before, default=0) + 1}"
            try:
                # `exec`, so that the signal to stop reaches the run itself and its exit code is the job's
                jobs.submit(job_id, f"exec {shlex.join(words)}", Path(folder), GENTLE_STOP | env, metadata)
            except TakenError:  # two submits at once: the other one's job is listed now
                continue
            return Submission(job_id, is_new=True)
    raise RunError(f"others keep submitting {recipe.workdir} at the same time; look with: listwise jobs")


def attempts(jobs: Iterable[Job], digest: str) -> dict[int, Job]:
    """The attempts at one workdir by number, in order, whatever the run was called."""
    numbered = {}
    for job in jobs:
        if match := re.fullmatch(rf".+-{digest}-(\d+)", job.id):
            numbered[int(match[1])] = job
    return dict(sorted(numbered.items()))


def stop(jobs: Jobs, job_id: str, limit_s: float = STOP_LIMIT_S) -> bool:
    """Stops a job and waits until it has ended; returns whether it was under way.

    Raises:
        RunError: it does not end in time.
    """
    if not jobs.get(job_id).live:
        return False
    jobs.stop(job_id)
    limit = time.monotonic() + limit_s
    while jobs.get(job_id).live:
        if time.monotonic() > limit:
            raise RunError(
                f"job {job_id} has not ended {limit_s:.0f} s after it was told to stop; look at the dashboard"
            )
        time.sleep(0.5)
    return True
