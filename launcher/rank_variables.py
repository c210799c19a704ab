"""The variables by which torchrun and srun tell a process that it is one rank of several.

They outlive the job that set them: a shell, a notebook or a container may still hold some of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from cluster.errors import InputError
from launcher.options import say

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
OF_ONE_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
REMEDY = "Start all ranks with torchrun or srun, or unset RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT."


def describe_a_rank() -> bool:
    """Whether all variables are set, so that this process is one of the ranks of torchrun.

    A part of them is what another job has left: it is ignored, with a note.

    Raises:
        InputError: a variable is no number in its range.
    """
    if all(os.environ.get(name) for name in NEEDED):
        _check_numbers()
        return True
    if _are_set(OF_ONE_RANK):
        missing = " and ".join(name for name in NEEDED if not os.environ.get(name))
        forget(f"without {missing}, so this process is no rank of torchrun or srun")
    return False


def forget(why: str, tell: Callable[[str], None] = lambda text: say(text, stderr=True)) -> None:
    """Takes the variables of a rank out of the environment, and says so in one sentence; does nothing without them.

    Libraries in this process and in its workers would take them for their own.
    """
    if names := _are_set(OF_ONE_RANK):
        for name in {*OF_ONE_RANK, *NEEDED}:
            if name in OF_ONE_RANK or "SLURM_PROCID" not in os.environ:  # under srun the address is SLURM's
                os.environ.pop(name, None)
        tell(f"note: {' and '.join(names)} {'is' if len(names) == 1 else 'are'} set {why}; ignored.")


def _are_set(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in os.environ]


def _check_numbers() -> None:
    limits = {"WORLD_SIZE": (1, 1 << 20), "RANK": (0, 1 << 20), "LOCAL_RANK": (0, 1 << 20), "MASTER_PORT": (1, 65535)}
    values = {}
    for name, (lowest, highest) in limits.items():
        text = os.environ.get(name, "0")
        if not text.isascii() or not text.isdigit() or not lowest <= int(text) <= highest:
            raise InputError(f"{name}={text}: expected a number from {lowest}. {REMEDY}")
        values[name] = int(text)
    if values["RANK"] >= values["WORLD_SIZE"]:
        raise InputError(f"RANK={values['RANK']} and WORLD_SIZE={values['WORLD_SIZE']}: ranks count from 0. {REMEDY}")
