"""Stage 7: ranks placed by Ray Train, each running `distill.training.trainer.train`."""

from __future__ import annotations

from typing import Any

from cluster.errors import InputError
from cluster.run import Run
from cluster.tables.table import Table
from distill.settings.encoders import StudentSettings
from distill.settings.training import TrainingSettings
from distill.training.job import TrainingJob
from distill.training.on_ray import run_ranks
from distill.training.stop import stop_file

MODEL = "model"  # folder of the workdir that the student is exported to


def build(
    run: Run, training: TrainingSettings, student: StudentSettings, lists: Table, passages: Table
) -> dict[str, Any]:
    """Trains the student on the lists, or returns the record of the training that was done.

    The model is the folder `MODEL` of the workdir, wherever that is now, and whatever a record says.

    Raises:
        InputError: bad lists, or no node can hold a rank.
        RunError: the ranks died more than `MAX_FAILURES` times, or the loss is no number.
    """
    fingerprint = {
        "training": training.identity(),
        "student": student.identity(),
        "lists": lists.fingerprint,
        "passages": passages.fingerprint,
    }
    return run.execute_in_process(
        "training", fingerprint, lambda: _train(run, training, student, lists.storage.url), title="training"
    )


def _train(run: Run, training: TrainingSettings, student: StudentSettings, tables: str) -> dict[str, Any]:
    workdir = run.storage.local_path
    if workdir is None:
        raise InputError(
            f"workdir '{run.storage.url}': training needs a folder that every rank's node can write to. Train from a "
            "workdir on a shared file system; the stages before it run on object stores too."
        )
    output = workdir / "training"
    patience = run.settings.storage_timeout_s
    job = TrainingJob(training, student, tables, str(output), str(workdir / MODEL), patience_s=patience)
    output.mkdir(parents=True, exist_ok=True)
    stop_file(output).unlink(missing_ok=True)
    (output / "job.json").write_text(job.to_json())
    record = run_ranks(run, job, output) | {"model": MODEL}
    run.progress.say(record["outcome"])
    return record
