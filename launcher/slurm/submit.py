"""Handing a script to sbatch."""

from __future__ import annotations

import shutil
import subprocess

from cluster.errors import InputError

ANSWER_S = 60  # a controller that is busy answers late


def require_sbatch() -> str:
    """The program that takes jobs.

    Raises:
        InputError: there is none here.
    """
    program = shutil.which("sbatch")
    if program is None:
        raise InputError(
            "--submit: there is no sbatch on PATH. Run this on a login node of the SLURM cluster, or write the script "
            "(--output FILE) and send it from there: sbatch FILE"
        )
    return program


def send(script: str) -> str:
    """Sends a script to SLURM; returns the job's number.

    Raises:
        InputError: SLURM refuses it, in its own words, or does not answer.
    """
    try:
        done = subprocess.run(
            [require_sbatch(), "--parsable"],
            input=script,
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"--submit: sbatch has not answered for {ANSWER_S} s. Look at `squeue --me` whether the job is there, "
            "and at `scontrol ping` whether SLURM answers."
        ) from None
    if done.returncode:
        raise InputError(f"SLURM does not take the job: {done.stderr.strip().removeprefix('sbatch: ')}")
    return done.stdout.strip().partition(";")[0]
