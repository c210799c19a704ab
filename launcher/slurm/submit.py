"""Submitting a script with sbatch."""

from __future__ import annotations

import shutil
import subprocess

from cluster.errors import InputError

ANSWER_S = 60  # longest wait for sbatch: a busy controller answers late


def require_sbatch() -> str:
    """The path of sbatch.

    Raises:
        InputError: this machine has no sbatch.
    """
    program = shutil.which("sbatch")
    if program is None:
        raise InputError(
            "--submit: there is no sbatch on PATH. Run this on a login node of the SLURM cluster, or write the script "
            "(--output FILE) and submit it there: sbatch FILE"
        )
    return program


def submit_script(script: str) -> str:
    """Submits a script to SLURM; returns the id of the job.

    Raises:
        InputError: SLURM refuses the job (the message holds SLURM's reason), or does not answer.
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
            f"--submit: sbatch has not answered for {ANSWER_S} s. `squeue --me` shows whether the job was submitted, "
            "and `scontrol ping` shows whether SLURM answers."
        ) from None
    if done.returncode:
        raise InputError(f"SLURM refuses the job: {done.stderr.strip().removeprefix('sbatch: ')}")
    return done.stdout.strip().partition(";")[0]
