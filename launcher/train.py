"""`listwise train`: trains a student on given lists, without other stages; on Ray, or as a rank of torchrun or srun."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from cluster.errors import InputError, ListwiseError
from cluster.schemas import MARKER
from cluster.settings import ClusterSettings, Settings
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from distill.settings.encoders import StudentSettings
from distill.settings.training import TrainingSettings
from launcher.options import say as show
from launcher.paths import absolute_paths
from launcher.rank_variables import NEEDED, REMEDY, describe_a_rank
from launcher.recipe_file import validate_options
from launcher.streams import while_it_is_read

DEV_FRACTION = 0.1
TRAINING, MODEL, TABLES = "training", "model", ("passages", "lists")  # what is written into the output


class TrainOptions(Settings):
    """The sections of a recipe that training on lists needs."""

    student: StudentSettings
    training: TrainingSettings = TrainingSettings()
    cluster: ClusterSettings = ClusterSettings()
    dev_fraction: float = Field(DEV_FRACTION, ge=0, lt=1)


def read_options(student: str, ranks: int | None, dev_fraction: float, changes: Sequence[str]) -> TrainOptions:
    """Options of the command line as settings.

    Raises:
        InputError: options have mistakes; the message names each one with its option and remedy.
    """
    training = {"ranks": ranks} if ranks else {}
    data = {"student": {"model": student}, "training": training, "dev_fraction": dev_fraction}
    return absolute_paths(validate_options(TrainOptions, data, changes))


def is_rank() -> bool:
    """Whether torchrun or srun started this process as one of its ranks; what is left of another job is ignored.

    Raises:
        InputError: variables of a rank contradict each other, or srun started tasks that cannot find each other.
    """
    if describe_a_rank():
        return True
    if os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1" and "MASTER_ADDR" not in os.environ:
        return False
    if "MASTER_ADDR" not in os.environ:
        raise InputError(
            "srun started several tasks, and none of them knows the address of the first one. Before srun: export "
            'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) MASTER_PORT=29500'
        )
    return "SLURM_PROCID" in os.environ


def train_as_rank(lists: str, output: Path, options: TrainOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Trains as one of several ranks, without Ray. Rank 0 writes the tables, and prints the progress.

    Raises:
        ListwiseError: the lists cannot be used, or training failed. Every rank raises the same error, so that no rank
            waits for one that has ended.
    """
    import torch.distributed as dist

    from distill.training.job import TrainingJob
    from distill.training.process_group import join_ranks, rank_device
    from distill.training.trainer import train

    device = rank_device()  # it takes the variables from SLURM's too
    if os.environ.get("RANK") == "0" and os.environ.get("WORLD_SIZE") != "1":
        _, ranks, host, port = (os.environ.get(name, "") for name in NEEDED)
        show(f"rank 0 of {ranks} waits for the others at {host}:{port} (MASTER_ADDR, MASTER_PORT)", stderr=True)
    try:
        rank, _ = join_ranks(device)
    except (ValueError, RuntimeError) as error:  # torch's errors of the network are RuntimeErrors
        rank_name, ranks, host, port = (os.environ.get(name, "") for name in NEEDED)
        reason = str(error).strip().splitlines()[0][:200].rstrip(".")
        raise InputError(
            f"rank {rank_name} of {ranks} cannot join the others at {host}:{port} (MASTER_ADDR, MASTER_PORT): "
            f"{reason}. {REMEDY}"
        ) from error
    try:
        broadcast: list[Any] = [None]  # (error class and message, or None; url of the tables)
        if rank == 0:
            try:
                broadcast = [(None, prepare_tables(lists, output, options.dev_fraction))]
            except ListwiseError as error:
                broadcast = [((type(error), str(error)), "")]
        dist.broadcast_object_list(broadcast)
        failure, tables = broadcast[0]
        if failure:
            error_class, message = failure
            raise error_class(message)
        training, model = str(output / "training"), str(output / "model")
        job = TrainingJob(options.training, options.student, tables, training, model)
        return train(job, on_record=lambda record: while_it_is_read(say, json.dumps(record)))
    finally:
        dist.destroy_process_group()


def train_on_ray(lists: str, output: Path, options: TrainOptions) -> dict[str, Any]:
    """Trains on ranks that Ray starts; a second call continues the training, or returns the finished record.

    Raises:
        ListwiseError: the lists cannot be used, or training failed.
    """
    from cluster.run import Run
    from distill.training.stage import build

    tables = Storage(prepare_tables(lists, output, options.dev_fraction))
    with Run(str(output), options.cluster) as run:
        list_table, passages = Table.open(tables, "lists"), Table.open(tables, "passages")
        record = build(run, options.training, options.student, list_table, passages)
        return record | {"model": str(output / record["model"])}


def prepare_tables(lists: str, output: Path, dev_fraction: float) -> str:
    """The url of the tables to train on: those of a run, or new ones that are written from a file of lists.

    Raises:
        InputError: the file or run does not exist, or the file does not hold scored lists; or files in `output` that no
            training has made would be replaced.
    """
    from distill.lists.scored_file import files_of, write_tables

    if not _has_begun(output / TRAINING):
        _refuse_foreign_files(output, (TRAINING, MODEL))
    folder = Path(lists).expanduser()
    is_run = any((folder / name).exists() for name in ("recipe.yaml", "passages", "lists"))
    if "://" in lists or (folder.is_dir() and (is_run or not files_of(folder))):
        storage = Storage(lists)
        for name in ("lists", "passages"):
            try:
                complete = Table.open(storage, name).complete
            except KeyError:
                complete = False
            if not complete:
                raise InputError(
                    f"--lists {lists}: the table `{name}` does not exist or is not finished. Expected the workdir "
                    "of a run (listwise run RECIPE --until lists), or JSON lines: a file, or a folder of them."
                )
        return storage.url
    if (output / MARKER).exists():
        raise InputError(
            f"--output {output}: this is the workdir of a run, whose passages and lists would be replaced by those of "
            f"{lists}. Name another folder."
        )
    _refuse_foreign_files(output, [name for name in TABLES if not (output / name / "plan.json").exists()])
    storage = Storage(str(output))
    write_tables(folder, storage, dev_fraction)
    return storage.url


def _has_begun(training: Path) -> bool:
    """Whether a training has written into a folder: its plan, its job, or a checkpoint."""
    return any((training / name).exists() for name in ("plan.json", "job.json")) or any(
        training.glob("checkpoints/step-*")
    )


def _refuse_foreign_files(output: Path, names: Sequence[str]) -> None:
    """Refuses an output in which there is something under names that a training replaces."""
    if foreign := [name for name in names if (output / name).exists() or (output / name).is_symlink()]:
        raise InputError(
            f"--output {output} holds {', '.join(foreign)}, which no training has made. Name a new folder, so that "
            "none of your files is replaced."
        )
