"""The nodes and the time that a job asks SLURM for, as options of sbatch and as settings of a ready script."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import InputError
from launcher.slurm.script import Value

CPUS_PER_GPU = 8
MOST_LEAD_S = 300  # seconds from SLURM's signal to the time limit; SLURM is exact to the minute
# minutes, minutes:seconds, hours:minutes:seconds
CLOCK = re.compile(r"(\d+)(?::(\d+))?(?::(\d+))?")
# days-hours, days-hours:minutes, days-hours:minutes:seconds
DAYS = re.compile(r"(\d+)-(\d+)(?::(\d+))?(?::(\d+))?")
SBATCH_OPTION = re.compile(r"--([a-z][a-z-]*)(?:=(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Request:
    """The nodes and the time that a job asks for, its account and its name.

    Attributes:
        nodes: number of nodes.
        gpus_per_node: GPUs of each node.
        time: time limit of one start, as SLURM writes it.
        cpus_per_node: CPU cores of each node; None: 8 for each GPU.
        partition: partition of the cluster.
        account: account that pays for the time.
        container: container image, a file `.sif` for Apptainer, any other for Pyxis.
        name: name of the job; None: the recipe's name.
        sbatch_options: further options of sbatch, such as `--mem=64G`.
    """

    nodes: int
    gpus_per_node: int
    time: str
    cpus_per_node: int | None = None
    partition: str | None = None
    account: str | None = None
    container: str | None = None
    name: str | None = None
    sbatch_options: tuple[str, ...] = ()

    @property
    def cpus(self) -> int:
        """CPU cores of a node."""
        return self.cpus_per_node or CPUS_PER_GPU * max(1, self.gpus_per_node)

    @property
    def lead_s(self) -> int:
        """Seconds from SLURM's signal to the time limit; at most a quarter of the time.

        Raises:
            InputError: the time does not have SLURM's format, or is too short for any work.
        """
        seconds = seconds_of(self.time)
        if seconds < 120:
            raise InputError(f"--time {self.time}: a job of under two minutes would be stopped before it does any work")
        return min(MOST_LEAD_S, seconds // 4)

    def options(self, recipe_name: str) -> dict[str, str | int | None]:
        """Options of sbatch by their long names. The job runs in the current folder, so relative paths stay valid.

        Raises:
            InputError: one of `sbatch_options` is not an option, or the time is not valid.
        """
        options: dict[str, str | int | None] = {
            "job-name": self.name or recipe_name,
            "nodes": self.nodes,
            "gpus-per-node": self.gpus_per_node or None,
            "time": self.time,
            "signal": f"B:USR1@{self.lead_s}",
            "chdir": str(Path.cwd()),
            "partition": self.partition,
            "account": self.account,
        }
        for option in self.sbatch_options:
            match = SBATCH_OPTION.fullmatch(option)
            if match is None:
                raise InputError(f"--sbatch {option}: expected a long option of sbatch, such as --sbatch=--mem=64G")
            options[match[1]] = match[2] or ""
        return options

    def settings(self, command: list[str], workdir: str) -> dict[str, Value]:
        """Settings of a ready script that runs a command on these nodes.

        Raises:
            InputError: a folder that the container needs cannot be mounted.
        """
        settings: dict[str, Value] = {"command": command, "stop_s": self.lead_s * 4 // 5}
        if self.container is None:
            return settings | {"programs": str(Path(sys.executable).parent)}
        folders = _mounted(workdir)
        if self.container.endswith(".sif"):
            options = ["--nv"] if self.gpus_per_node else []
            options += [f"--bind={folder}" for folder in folders]
            return settings | {"programs": "", "inside": ["apptainer", "exec", *options, self.container]}
        mounts = ",".join(f"{folder}:{folder}" for folder in folders)
        options = [f"--container-image={self.container}", f"--container-mounts={mounts}"]
        return settings | {"programs": "", "step_options": [*options, f"--container-workdir={Path.cwd()}"]}

    def notes(self) -> list[str]:
        """Notes for the person who submits the job."""
        if self.container is None:
            return []
        return ["the container sees this folder, the workdir and /tmp; add mounts for other folders of the recipe"]


def seconds_of(time: str) -> int:
    """Seconds of a time limit in SLURM's format.

    Raises:
        InputError: the time has another format.
    """
    if match := DAYS.fullmatch(time):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if match := CLOCK.fullmatch(time):
        first, second, third = match.groups()
        if third is not None:
            return (int(first) * 60 + int(second)) * 60 + int(third)
        return int(first) * 60 + int(second or 0)
    raise InputError(
        f"--time {time}: expected minutes, hours:minutes:seconds or days-hours:minutes:seconds, "
        "for example 90, 12:00:00 or 2-00:00:00"
    )


def _mounted(workdir: str) -> list[str]:
    """Folders that a container needs: the current one, the workdir or its nearest existing parent, and /tmp for Ray."""
    folders = [Path("/tmp"), Path.cwd()]
    if "://" not in workdir:
        folders.append(next(folder for folder in (Path(workdir), *Path(workdir).parents) if folder.is_dir()))
    for folder in folders:
        if set(str(folder)) & set(",:"):
            raise InputError(f"--container: {folder} cannot be mounted, since its name holds a comma or a colon")
    outermost = [folder for folder in folders if not any(other in folder.parents for other in folders)]
    return [str(folder) for folder in dict.fromkeys(outermost)]
